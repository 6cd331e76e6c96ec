// The product of a few rows of activations with a matrix: out[r, n] = sum over k of x[r, k] W[n, k].
//
// A step reads every weight once and there are few rows, so memory is the limit: see the table in
// docs/gpu.md for bytes and instructions. A block takes a strip of TILES tiles of 16 outputs, up to
// COLUMNS times 8 rows (a tile of the tensor cores each), and a part of the inputs, which its four
// warps cut once more. Each warp copies its units of weights ahead into shared memory (each lane
// what it will need itself, so that there is no barrier in the loop), splits its activations into
// two bf16 (16 binary digits), and multiplies.
//
// Every sum has one order that follows from the matrix alone: inputs in ascending order inside a
// warp (for integers: within a block of 32, then blocks in order), then the warps, then the parts.
// Neither the number of rows nor TILES and COLUMNS change it, so a row's bits depend on that row
// only.
//
// grid (ceil(rows / 8 COLUMNS), tiles / TILES, splits), block 128, shared SHARED bytes. Blocks that
// share weights come one after the other, so that the second finds them in the cache.
#pragma once

#include "args.h"
#include "async_copy.h"
#include "last_block.h"
#include "mma.h"
#include "product_weights.h"

namespace kaiwa::product {

// What is done with a sum (ProductArgs::epilogue).
enum ProductEpilogue : int32_t {
  // out = sum, times `scale` of the output and plus `residual` where they are given.
  PRODUCT_STORE = 0,
  // out = gelu(sum), the exact one.
  PRODUCT_GELU = 1,
  // Tiles come in pairs, gate and up: out = silu(gate) up.
  PRODUCT_SILU_GATE = 2,
};

// The simulator refuses a launch with another amount of dynamic shared memory than is used.
__device__ __forceinline__ void check_dynamic_shared(int bytes) {
#ifndef __CUDACC__
  if (sim::block().dynamic_size() != static_cast<size_t>(bytes))
    sim::block().fail("%zu bytes of dynamic shared memory where %d are used", sim::block().dynamic_size(), bytes);
#else
  (void)bytes;
#endif
}

template <class W, int TILES, int COLUMNS> class Product {
 public:
  static constexpr int WARPS = 4, THREADS = 32 * WARPS;
  // Bytes of a unit in memory, and in the ring of a warp, where each lane has its own scales.
  static constexpr int UNIT_BYTES = 512 * W::CHUNKS + 8 * W::SCALE_BYTES;
  static constexpr int COPY_BYTES = 512 * W::CHUNKS + 32 * W::SCALE_BYTES;
  static constexpr int STAGE_BYTES = TILES * COPY_BYTES;
  // Units on their way, as many as fit into 64 KiB of a block: small matrices have few blocks, and
  // the memory's latency has to be filled all the same.
  static constexpr int FIT = (64 << 10) / (WARPS * STAGE_BYTES);
  static constexpr int STAGES = FIT < 3 ? 3 : FIT > 8 ? 8 : FIT;
  static constexpr int RING_BYTES = WARPS * STAGES * STAGE_BYTES;
  // Sums of the warps: four numbers a lane, tile and column.
  static constexpr int SUM_BYTES = WARPS * TILES * COLUMNS * 4 * 32 * 4;
  static constexpr int SHARED = RING_BYTES > SUM_BYTES ? RING_BYTES : SUM_BYTES;

  static __device__ __forceinline__ void run(const ProductArgs& a) {
    check_dynamic_shared(SHARED);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first_row = blockIdx.x * (8 * COLUMNS), tile = blockIdx.y * TILES;
    const int columns = min(COLUMNS, (a.rows - first_row + 7) / 8);
    // Units of this warp: the matrix alone decides.
    const int piece = blockIdx.z * WARPS + warp, pieces = a.splits * WARPS;
    const int first = (a.units * piece + pieces - 1) / pieces;
    const int end = (a.units * (piece + 1) + pieces - 1) / pieces;

    float sums[TILES][COLUMNS][4];
#pragma unroll
    for (int r = 0; r < TILES; ++r)
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[r][c][i] = 0;

    unsigned char* ring = dynamic_shared<unsigned char>() + warp * (STAGES * STAGE_BYTES);
    AsyncCopies copies;
    const auto fetch = [&](int unit) {
      if (unit < end) {
        unsigned char* to = ring + (unit - first) % STAGES * STAGE_BYTES;
#pragma unroll
        for (int r = 0; r < TILES; ++r) {
          const unsigned char* from = a.weights + (static_cast<int64_t>(tile + r) * a.units + unit) * UNIT_BYTES;
#pragma unroll
          for (int c = 0; c < W::CHUNKS; ++c)
            copies.copy<16>(to + r * COPY_BYTES + 512 * c + 16 * lane, from + 512 * c + 16 * lane);
          if constexpr (W::SCALE_BYTES > 0)
            copies.template copy<W::SCALE_BYTES>(to + r * COPY_BYTES + 512 * W::CHUNKS + W::SCALE_BYTES * lane,
                                                 from + 512 * W::CHUNKS + W::SCALE_BYTES * (lane / 4));
        }
      }
      copies.commit();
    };
#pragma unroll
    for (int s = 0; s < STAGES - 1; ++s) fetch(first + s);

    float4 ahead[COLUMNS][2];
    if (first < end) activations(ahead, a, first_row, columns, first * W::UNIT, lane);
    for (int unit = first; unit < end; ++unit) {
      fetch(unit + STAGES - 1);
      copies.wait<STAGES - 1>();
      const unsigned char* stage = ring + (unit - first) % STAGES * STAGE_BYTES;
#pragma unroll
      for (int block = 0; block < W::UNIT / 32; ++block) {
        // [column][high or low][step]
        uint32_t x[COLUMNS][2][2][2];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
#pragma unroll
          for (int step = 0; step < 2; ++step) split(x[c][0][step], x[c][1][step], ahead[c][step]);
        const int next = unit * W::UNIT + 32 * (block + 1);
        if (next < end * W::UNIT) activations(ahead, a, first_row, columns, next, lane);
        multiply(sums, x, stage, block, columns, lane);
      }
    }

    // The ring is free: it takes the warps' sums.
    __syncthreads();
    float* shared = dynamic_shared<float>();
#pragma unroll
    for (int r = 0; r < TILES; ++r)
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) shared[(((warp * TILES + r) * COLUMNS + c) * 4 + i) * 32 + lane] = sums[r][c][i];
    __syncthreads();
    finish(a, shared, first_row, tile);
  }

 private:
  // The lane's activations of 32 inputs from `k` on: of row g of each column, inputs 4t to 4t + 3 of
  // either 16. What the matrix does not have is zero.
  static __device__ __forceinline__ void activations(float4 (&x)[COLUMNS][2], const ProductArgs& a, int first_row,
                                                     int columns, int k, int lane) {
    const bool vectors = a.k % 4 == 0;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const int row = first_row + 8 * c + lane / 4;
      const float* from = a.x + static_cast<int64_t>(row) * a.k;
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const int at = k + 16 * step + 4 * (lane % 4);
        float4 v = make_float4(0, 0, 0, 0);
        if (c < columns && row < a.rows) {
          if (vectors) {
            if (at < a.k) v = load<float4>(from + at);
          } else {
            if (at < a.k) v.x = from[at];
            if (at + 1 < a.k) v.y = from[at + 1];
            if (at + 2 < a.k) v.z = from[at + 2];
            if (at + 3 < a.k) v.w = from[at + 3];
          }
        }
        x[c][step] = v;
      }
    }
  }

  // Four numbers as the sums of two bf16 each.
  static __device__ __forceinline__ void split(uint32_t (&high)[2], uint32_t (&low)[2], const float4& v) {
    high[0] = bf16_pair(v.x, v.y), high[1] = bf16_pair(v.z, v.w);
    low[0] = bf16_pair(v.x - bf16_low(high[0]), v.y - bf16_high(high[0]));
    low[1] = bf16_pair(v.z - bf16_low(high[1]), v.w - bf16_high(high[1]));
  }

  static __device__ __forceinline__ void multiply(float (&sums)[TILES][COLUMNS][4],
                                                  const uint32_t (&x)[COLUMNS][2][2][2], const unsigned char* stage,
                                                  int block, int columns, int lane) {
    // Addends meet the sums of the activations: those of columns 2t and 2t + 1 of each tile of rows.
    float totals[COLUMNS][4];
    if constexpr (W::ADDENDS) {
      const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        totals[c][0] = totals[c][1] = totals[c][2] = totals[c][3] = 0;
        if (c >= columns) continue;
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          mma(totals[c], ones, x[c][0][step]);
          mma(totals[c], ones, x[c][1][step]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < TILES; ++r) {
      const unsigned char* chunks = stage + r * COPY_BYTES;
      uint32_t w[2][W::PARTS][4];
      W::operands(w, chunks + 16 * lane, block);
      if constexpr (!W::SCALED) {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
          if (c < columns) product(sums[r][c], w, x[c]);
      } else {
        const BlockScales s = W::scales(chunks + 512 * W::CHUNKS + W::SCALE_BYTES * lane, block);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          if (c >= columns) continue;
          float part[4] = {0, 0, 0, 0};
          product(part, w, x[c]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sums[r][c][i] = fmaf(s.scale[i / 2], part[i], sums[r][c][i]);
            if constexpr (W::ADDENDS) sums[r][c][i] = fmaf(s.addend[i / 2], totals[c][i % 2], sums[r][c][i]);
          }
        }
      }
    }
  }

  // A block of 32 inputs: high parts of the activations, then low ones; of the weights likewise.
  static __device__ __forceinline__ void product(float (&sum)[4], const uint32_t (&w)[2][W::PARTS][4],
                                                 const uint32_t (&x)[2][2][2]) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      mma(sum, w[step][0], x[0][step]);
      mma(sum, w[step][0], x[1][step]);
      // The product of both low parts is below what is kept.
      if constexpr (W::PARTS > 1) mma(sum, w[step][1], x[0][step]);
    }
  }

  // Adds up the warps, then the parts of the inputs, and does what the epilogue says.
  static __device__ __forceinline__ void finish(const ProductArgs& a, const float* shared, int first_row, int tile) {
    const int rows = min(8 * COLUMNS, a.rows - first_row), width = 16 * a.tiles;
    // Output `n` of the strip, row `m` of the block.
    const auto of_warps = [&](int n, int m) {
      const int i = n % 16 / 8 * 2 + m % 2, lane = n % 8 * 4 + m % 8 / 2;
      const float* at = shared + ((n / 16 * COLUMNS + m / 8) * 4 + i) * 32 + lane;
      float sum = at[0];
#pragma unroll
      for (int w = 1; w < WARPS; ++w) sum += at[w * (TILES * COLUMNS * 4 * 32)];
      return sum;
    };
    if (a.splits > 1) {
      for (int e = threadIdx.x; e < rows * 16 * TILES; e += THREADS) {
        const int n = e % (16 * TILES), m = e / (16 * TILES);
        a.partial[(static_cast<int64_t>(blockIdx.z) * a.rows + first_row + m) * width + 16 * tile + n] = of_warps(n, m);
      }
      if (!last_block(a.counters + blockIdx.y * gridDim.x + blockIdx.x, a.splits)) return;
    }
    const auto sum = [&](int n, int m) {
      float value;
      if (a.splits > 1) {
        const float* at = a.partial + static_cast<int64_t>(first_row + m) * width + 16 * tile + n;
        value = written(at);
        for (int s = 1; s < a.splits; ++s) value += written(at + static_cast<int64_t>(s) * a.rows * width);
      } else {
        value = of_warps(n, m);
      }
      return a.row_scales ? value * a.row_scales[16 * tile + n] : value;
    };
    const bool gated = a.epilogue == PRODUCT_SILU_GATE;
    const int outputs = gated ? 8 * TILES : 16 * TILES;
    for (int e = threadIdx.x; e < rows * outputs; e += THREADS) {
      const int n = e % outputs, m = e / outputs;
      const int64_t output = (gated ? 8 : 16) * static_cast<int64_t>(tile) + n;
      if (output >= a.n) continue;
      const int64_t at = (first_row + m) * static_cast<int64_t>(a.n) + output;
      if (gated) {
        const float gate = sum(n / 16 * 32 + n % 16, m), up = sum(n / 16 * 32 + 16 + n % 16, m);
        a.out[at] = gate / (1.0f + expf(-gate)) * up;
      } else {
        float value = sum(n, m);
        if (a.epilogue == PRODUCT_GELU) value = 0.5f * value * (1.0f + erff(value * 0.70710678118654752f));
        if (a.scale) value *= a.scale[output];
        if (a.residual) value += a.residual[at];
        a.out[at] = value;
      }
    }
  }
};

}  // namespace kaiwa::product
