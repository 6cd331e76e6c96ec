// Attention of one step of the temporal transformer over the rings of keys and values
// (docs/spec/moshi.md 3.4 to 3.6).
//
// A ring is [slots, kv heads, context, D]; the key of position p lies in column p mod context. Row r
// of a step belongs to slot slots[r], at position positions[r]; a slot below 0 marks a row that only
// fills up the batch. The columns in use, min(position + 1, context) of them, are cut into splits of
// `split` columns, a block each, so the cut depends on the position alone. The block with the
// step's own column turns and writes key and value first. If a row has more than one split, each
// leaves its largest score, its sum and its weighted values, and the last block to finish adds them
// up in the order of the splits.
//
// L lanes share a column, E numbers each, one vector load; a warp reads 32 / L neighbouring columns
// at once and UNROLL times that before it uses the first. The scores and their softmax are f32,
// with a running maximum, as powers of two.
//
// int8 rings have a scale for each slot, kv head and column: the largest magnitude over 127.
//
// grid (splits that the context has, kv heads, rows), block 128. Query heads that
// share keys are worked on one after the other: keys come from the cache again.
#pragma once

#include "args.h"
#include "last_block.h"

namespace kaiwa::attention {

template <class T> struct RingVector;
template <> struct RingVector<float> {
  static constexpr int NUMBERS = 4;
};
template <> struct RingVector<__nv_bfloat16> {
  static constexpr int NUMBERS = 8;
};
template <> struct RingVector<int8_t> {
  static constexpr int NUMBERS = 16;
};

// What a lane holds of one key or value, as it lies in memory.
template <class T, int E> struct Held {
  static constexpr int WORDS = E * static_cast<int>(sizeof(T)) / 4;
  uint32_t words[WORDS];

  __device__ __forceinline__ void read(const T* from) {
    if constexpr (WORDS == 4) {
      const uint4 v = load<uint4>(from);
      words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    } else {
      static_assert(WORDS == 2, "vectors of 8 or 16 bytes");
      const uint2 v = load<uint2>(from);
      words[0] = v.x, words[1] = v.y;
    }
  }

  __device__ __forceinline__ float number(int i) const {
    if constexpr (sizeof(T) == 4) return __uint_as_float(words[i]);
    if constexpr (sizeof(T) == 2)
      return __uint_as_float(i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16);
    return static_cast<float>(static_cast<int8_t>(words[i / 4] >> 8 * (i % 4)));
  }
};

// Largest magnitude of D numbers in shared memory; the same in all lanes of the warp.
template <int D> __device__ __forceinline__ float largest(const float* x) {
  float most = 0;
  for (int d = threadIdx.x % 32; d < D; d += 32) most = fmaxf(most, fabsf(x[d]));
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, bits));
  return most;
}

__device__ __forceinline__ void put(float* to, float v, float) { *to = v; }
__device__ __forceinline__ void put(__nv_bfloat16* to, float v, float) { *to = __float2bfloat16_rn(v); }
__device__ __forceinline__ void put(int8_t* to, float v, float inverse) {
  // A number that is none has to stay visible: its scale is none either.
  const int q = __float2int_rn(v * inverse);
  *to = static_cast<int8_t>(q < -127 ? -127 : q > 127 ? 127 : q);
}

template <class T, int D> class Attention {
 public:
  static constexpr int WARPS = 4, THREADS = 32 * WARPS;
  static constexpr int E = D < RingVector<T>::NUMBERS ? D : RingVector<T>::NUMBERS;
  static constexpr int L = D / E, SIDE = 32 / L, UNROLL = 4;
  // Lanes that share columns, over the block: each group has a maximum, a sum and values of its own.
  static constexpr int GROUPS = WARPS * SIDE;

  static __device__ __forceinline__ void run(const AttentionArgs& a) {
    KAIWA_SHARED(float, query, [D]);
    KAIWA_SHARED(float, fresh, [2 * D]);
    KAIWA_SHARED(float, parts, [GROUPS * (D + 2)]);
    const int row = blockIdx.z, kv = blockIdx.y, number = blockIdx.x, thread = threadIdx.x;
    const int repeat = a.heads / a.kv_heads, slot = a.slots[row];
    float* out = a.out + (static_cast<int64_t>(row) * a.heads + kv * repeat) * D;
    if (slot < 0) {
      if (number == 0)
        for (int i = thread; i < repeat * D; i += THREADS) out[i] = 0;
      return;
    }
    const int64_t position = a.positions[row];
    const int count = position < a.context ? static_cast<int>(position) + 1 : a.context;
    const int first = number * a.split, end = min(first + a.split, count);
    if (first >= count) return;
    const int splits = (count + a.split - 1) / a.split;
    const int own = static_cast<int>(position % a.context);
    const float* all = a.qkv + static_cast<int64_t>(row) * (a.heads + 2 * a.kv_heads) * D;
    const float* rotation = a.rotation + static_cast<int64_t>(row) * D;
    const int64_t ring = (static_cast<int64_t>(slot) * a.kv_heads + kv) * a.context;
    T* keys = static_cast<T*>(a.keys) + ring * D;
    T* values = static_cast<T*>(a.values) + ring * D;
    const float* key_scales = sizeof(T) == 1 ? a.key_scales + ring : nullptr;
    const float* value_scales = sizeof(T) == 1 ? a.value_scales + ring : nullptr;

    if (own >= first && own < end) {
      if (thread < D) {
        fresh[thread] = turned(all + (a.heads + kv) * D, rotation, thread, a.halves);
        fresh[D + thread] = all[(a.heads + a.kv_heads + kv) * D + thread];
      }
      __syncthreads();
      // Warp 0 writes the key, warp 1 the value.
      const int which = thread / 32;
      if (which < 2) {
        float inverse = 1;
        if constexpr (sizeof(T) == 1) {
          const float scale = scale_of(largest_or_none(fresh + which * D));
          inverse = scale > 0 ? 1.0f / scale : 0.0f;
          if (thread % 32 == 0) (which ? a.value_scales : a.key_scales)[ring + own] = scale;
        }
        T* to = (which ? values : keys) + static_cast<int64_t>(own) * D;
        for (int d = thread % 32; d < D; d += 32) put(to + d, fresh[which * D + d], inverse);
      }
      // The barrier before the sweep shows it to all.
    }
    for (int h = 0; h < repeat; ++h) {
      const int head = kv * repeat + h;
      // Scores are powers of two: exp(s) = 2^(s log2(e)).
      if (thread < D) query[thread] = turned(all + head * D, rotation, thread, a.halves) * a.score_scale;
      __syncthreads();
      sweep(query, parts, keys, values, key_scales, value_scales, first, end);
      __syncthreads();
      // In the order of the groups.
      if (thread < D) {
        float most = -INFINITY, sum = 0, value = 0;
#pragma unroll 4  // all at once would take more registers than there are
        for (int g = 0; g < GROUPS; ++g) most = fmaxf(most, parts[g * (D + 2) + D]);
#pragma unroll 4
        for (int g = 0; g < GROUPS; ++g) {
          const float by = fade(parts[g * (D + 2) + D], most);
          value = fmaf(by, parts[g * (D + 2) + thread], value);
          sum = fmaf(by, parts[g * (D + 2) + D + 1], sum);
        }
        if (splits == 1) {
          out[h * D + thread] = value / sum;
        } else {
          float* to = part_of(a, row, head, number);
          to[thread] = value;
          if (thread == 0) to[D] = most, to[D + 1] = sum;
        }
      }
      // The next head's barrier comes before its sweep writes `parts`.
    }
    if (splits == 1 || !last_block(a.counters + row * a.kv_heads + kv, splits)) return;
    for (int h = 0; h < repeat; ++h) {
      if (thread >= D) continue;
      float most = -INFINITY, sum = 0, value = 0;
      for (int s = 0; s < splits; ++s) most = fmaxf(most, written(part_of(a, row, kv * repeat + h, s) + D));
      for (int s = 0; s < splits; ++s) {
        const float* from = part_of(a, row, kv * repeat + h, s);
        const float by = fade(written(from + D), most);
        value = fmaf(by, written(from + thread), value);
        sum = fmaf(by, written(from + D + 1), sum);
      }
      out[h * D + thread] = value / sum;
    }
  }

 private:
  // What a group of lanes adds to the whole; groups without columns have no maximum.
  static __device__ __forceinline__ float fade(float own, float most) {
    return own == -INFINITY && most != -INFINITY ? 0.0f : exp2f(own - most);
  }

  static __device__ __forceinline__ float* part_of(const AttentionArgs& a, int row, int head, int split) {
    return a.partial + ((static_cast<int64_t>(row) * a.heads + head) * a.splits + split) * (D + 2);
  }

  // Number `d` of a head, turned (docs/spec/moshi.md 3.5).
  static __device__ __forceinline__ float turned(const float* x, const float* rotation, int d, int halves) {
    const int pair = halves ? d % (D / 2) : d / 2;
    const bool second = halves ? d >= D / 2 : d % 2;
    const float cosine = rotation[pair], sine = rotation[D / 2 + pair];
    const float one = x[halves ? pair : 2 * pair], two = x[halves ? pair + D / 2 : 2 * pair + 1];
    return second ? fmaf(one, sine, two * cosine) : fmaf(one, cosine, -(two * sine));
  }

  // NaN if any number is none, so that it is not lost in the integers.
  static __device__ __forceinline__ float largest_or_none(const float* x) {
    bool none = false;
    for (int d = threadIdx.x % 32; d < D; d += 32) none |= !(fabsf(x[d]) <= 3.402823466e38f);
    const float most = largest<D>(x);
    return __any_sync(0xffffffffu, none) ? NAN : most;
  }

  // A step of the integers; zero for what is too small to divide by.
  static __device__ __forceinline__ float scale_of(float most) {
    const float scale = most / 127.0f;
    return scale < 1.17549435e-38f ? 0.0f : scale;
  }

  // The group's softmax and weighted values over its columns of [first, end).
  static __device__ __forceinline__ void sweep(const float* query, float* parts, const T* keys, const T* values,
                                               const float* key_scales, const float* value_scales, int first,
                                               int end) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, side = lane / L, at = lane % L * E;
    float q[E], sums[E];
#pragma unroll
    for (int i = 0; i < E; ++i) q[i] = query[at + i], sums[i] = 0;
    float most = -INFINITY, sum = 0;
    for (int base = first + warp * (SIDE * UNROLL); base < end; base += WARPS * SIDE * UNROLL) {
      Held<T, E> k[UNROLL], v[UNROLL];
      float by_key[UNROLL], by_value[UNROLL], score[UNROLL];
#pragma unroll
      for (int j = 0; j < UNROLL; ++j) {
        const int column = min(base + j * SIDE + side, end - 1);
        k[j].read(keys + static_cast<int64_t>(column) * D + at);
        v[j].read(values + static_cast<int64_t>(column) * D + at);
        by_key[j] = by_value[j] = 1;
        if constexpr (sizeof(T) == 1) by_key[j] = key_scales[column], by_value[j] = value_scales[column];
      }
#pragma unroll
      for (int j = 0; j < UNROLL; ++j) {
        float dot = 0;
#pragma unroll
        for (int i = 0; i < E; ++i) dot = fmaf(q[i], k[j].number(i), dot);
#pragma unroll
        for (int bits = L / 2; bits > 0; bits /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, bits);
        score[j] = dot * by_key[j];
      }
      if (base + side >= end) continue;
      float above = most;
#pragma unroll
      for (int j = 0; j < UNROLL; ++j)
        if (base + j * SIDE + side < end) above = fmaxf(above, score[j]);
      const float by = fade(most, above);
      most = above;
      sum *= by;
#pragma unroll
      for (int i = 0; i < E; ++i) sums[i] *= by;
#pragma unroll
      for (int j = 0; j < UNROLL; ++j) {
        if (base + j * SIDE + side >= end) continue;
        const float weight = exp2f(score[j] - above);
        sum += weight;
        const float scaled = weight * by_value[j];
#pragma unroll
        for (int i = 0; i < E; ++i) sums[i] = fmaf(scaled, v[j].number(i), sums[i]);
      }
    }
    float* to = parts + (warp * SIDE + side) * (D + 2);
#pragma unroll
    for (int i = 0; i < E; ++i) to[at + i] = sums[i];
    if (lane % L == 0) to[D] = most, to[D + 1] = sum;
  }
};

}  // namespace kaiwa::attention
