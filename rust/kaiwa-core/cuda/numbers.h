// Pairs of bf16 in a word, as the tensor cores take them, and f16 scales.
#pragma once

#include "platform.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace kaiwa {

// Two numbers to the nearest bf16: `low` in the lower half of the word.
__device__ __forceinline__ uint32_t bf16_pair(float low, float high) {
#ifdef __CUDACC__
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
#else
  return __bfloat16_as_ushort(__float2bfloat16_rn(low)) |
         static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
#endif
}

__device__ __forceinline__ float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }

__device__ __forceinline__ float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// a - b of both halves; each difference has to be a bf16, as those of small integers are.
__device__ __forceinline__ uint32_t bf16_pair_minus(uint32_t a, uint32_t b) {
#ifdef __CUDACC__
  const __nv_bfloat162 d = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&a),
                                   *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&d);
#else
  return bf16_pair(bf16_low(a) - bf16_low(b), bf16_high(a) - bf16_high(b));
#endif
}

// The f16 in the lower 16 bits.
__device__ __forceinline__ float f16_value(uint32_t bits) {
#ifdef __CUDACC__
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
#else
  const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, digits = bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | digits << 13);
  if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | digits << 13);
  // Below the smallest normal f16: a multiple of 2^-24.
  const float small = static_cast<float>(digits) * 0x1p-24f;
  return sign ? -small : small;
#endif
}

}  // namespace kaiwa
