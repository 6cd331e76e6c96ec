// How packed weights become operands of the tensor cores: a struct for each form that
// src/cuda/product packs.
//
// A matrix [n, k] is cut into tiles of 16 outputs, a tile into units of UNIT inputs. A unit is
// CHUNKS times 32 lanes times 16 bytes, the very words that each lane needs, and then, for each
// g = lane / 4, the scales of outputs g and g + 8: for every group of the unit those of g, those of
// g + 8, and the same of the addends. Inputs and outputs that fill up tiles and units are zeros.
//
// An instruction multiplies 16 inputs. Sums do not depend on the order in which inputs are
// numbered, so lane t takes inputs 4t to 4t + 3 of the 16 as its columns 2t, 2t + 1, 2t + 8 and
// 2t + 9 (mma.h), and reads its activations as one vector. A block is 32 inputs: two instructions.
//
// Integers become bf16 without rounding. bf16 has 8 binary digits: 0x4300 is 128, and the lowest
// seven bits count in ones, so q | 0x4300 is 128 + q for q below 128.
#pragma once

#include "numbers.h"

namespace kaiwa::product {

// Scales and addends of one block for the two outputs of a lane: w = scale q + addend.
struct BlockScales {
  float scale[2], addend[2];
};

// bf16 as it is.
struct Bf16Weights {
  static constexpr int UNIT = 32, CHUNKS = 2, SCALE_BYTES = 0, PARTS = 1;
  static constexpr bool SCALED = false, ADDENDS = false;

  // Both steps' operands of block `block` of a unit, [step][part]; `chunks` is the lane's first.
  static __device__ __forceinline__ void operands(uint32_t (&a)[2][1][4], const unsigned char* chunks, int) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const uint4 w = load<uint4>(chunks + 512 * step);
      a[step][0][0] = w.x, a[step][0][1] = w.y, a[step][0][2] = w.z, a[step][0][3] = w.w;
    }
  }
};

// f32, as the sum of two bf16: 16 binary digits of it.
struct F32Weights {
  static constexpr int UNIT = 32, CHUNKS = 4, SCALE_BYTES = 0, PARTS = 2;
  static constexpr bool SCALED = false, ADDENDS = false;

  static __device__ __forceinline__ void operands(uint32_t (&a)[2][2][4], const unsigned char* chunks, int) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Two neighbours of output g, two of output g + 8.
      const float4 w = load<float4>(chunks + 512 * i);
      const float values[4] = {w.x, w.y, w.z, w.w};
      const int step = i / 2, half = i % 2;
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const float v0 = values[2 * row], v1 = values[2 * row + 1];
        const uint32_t high = bf16_pair(v0, v1);
        a[step][0][2 * half + row] = high;
        a[step][1][2 * half + row] = bf16_pair(v0 - bf16_low(high), v1 - bf16_high(high));
      }
    }
  }
};

// Scales of a unit of 64 inputs: GROUPS of them an output, f16 or bf16.
template <int GROUPS, bool WITH_ADDENDS, bool HALF, int CENTRE> struct UnitScales {
  static constexpr int SCALE_BYTES = 4 * GROUPS * (WITH_ADDENDS ? 2 : 1);

  static __device__ __forceinline__ float value(uint32_t bits) {
    return HALF ? f16_value(bits & 0xffffu) : __uint_as_float(bits << 16);
  }

  static __device__ __forceinline__ BlockScales scales(const unsigned char* from, int block) {
    const int group = block * GROUPS / 2;
    uint32_t words[SCALE_BYTES / 4];
    if constexpr (SCALE_BYTES == 16) {
      const uint4 all = load<uint4>(from);
      words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
    } else {
      const uint2 all = load<uint2>(from);
      words[0] = all.x, words[1] = all.y;
    }
    const auto number = [&](int i) { return value(words[i / 2] >> 16 * (i % 2)); };
    BlockScales out = {};
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      out.scale[row] = number(GROUPS * row + group);
      // The integers are CENTRE less than those of the file.
      if (WITH_ADDENDS)
        out.addend[row] = fmaf(static_cast<float>(CENTRE), out.scale[row], number(GROUPS * (2 + row) + group));
    }
    return out;
  }
};

// Signed bytes q. With a scale per output the product is scaled at its end (ROW_SCALES).
template <int GROUPS, bool WITH_ADDENDS, bool HALF> struct Int8Weights : UnitScales<GROUPS, WITH_ADDENDS, HALF, 128> {
  static constexpr int UNIT = 64, CHUNKS = 2, PARTS = 1;
  static constexpr bool SCALED = GROUPS > 0, ADDENDS = WITH_ADDENDS;

  // Bytes 0 and 2 of a word are the first pair, bytes 1 and 3 the second.
  static __device__ __forceinline__ uint32_t pair(uint32_t word) {
    // 128 + the lowest seven bits, less 128 or (sign set) 256: both are one bit apart.
    return bf16_pair_minus((word & 0x007f007fu) | 0x43004300u, (word & 0x00800080u) | 0x43004300u);
  }

  static __device__ __forceinline__ void operands(uint32_t (&a)[2][1][4], const unsigned char* chunks, int block) {
    const uint4 w = load<uint4>(chunks + 512 * block);
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        a[step][0][row] = pair(words[2 * step + row]);
        a[step][0][2 + row] = pair(words[2 * step + row] >> 8);
      }
    }
  }
};

// Half bytes: q + 8 of q in -8..7.
template <int GROUPS, bool WITH_ADDENDS, bool HALF> struct Int4Weights : UnitScales<GROUPS, WITH_ADDENDS, HALF, 8> {
  static constexpr int UNIT = 64, CHUNKS = 1, PARTS = 1;
  static constexpr bool SCALED = true, ADDENDS = WITH_ADDENDS;

  static __device__ __forceinline__ void operands(uint32_t (&a)[2][1][4], const unsigned char* chunks, int block) {
    const uint2 w = load<uint2>(chunks + 8 * block);
    const uint32_t words[2] = {w.x, w.y};
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[step][0][i] = bf16_pair_minus((words[step] >> 4 * i & 0x000f000fu) | 0x43004300u, 0x43084308u);
    }
  }
};

using Q8_0Weights = Int8Weights<2, false, true>;
using Q4_0Weights = Int4Weights<2, false, true>;
using Q4_1Weights = Int4Weights<2, true, true>;
// MLX: groups of 32, and of 64 (those of 128 are written twice).
using Affine8Group32Weights = Int8Weights<2, true, false>;
using Affine8Group64Weights = Int8Weights<1, true, false>;
using Affine4Group32Weights = Int4Weights<2, true, false>;
using Affine4Group64Weights = Int4Weights<1, true, false>;
// One f32 scale an output.
using Int8RowsWeights = Int8Weights<0, false, true>;

}  // namespace kaiwa::product
