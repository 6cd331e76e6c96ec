// The one instruction of the tensor cores that is used: D = A B + C on a warp, A 16 x 16 and B
// 16 x 8 of bf16, C and D 16 x 8 of f32.
//
// Which lane holds which element is NVIDIA's "Parallel Thread Execution ISA", section "Matrix
// Fragments for mma.m16n8k16 with floating point type". With g = lane / 4 and t = lane % 4:
//
//   A, four words of two bf16 (the first in the lower half):
//     word 0: row g,     columns 2t, 2t + 1        word 2: row g,     columns 2t + 8, 2t + 9
//     word 1: row g + 8, columns 2t, 2t + 1        word 3: row g + 8, columns 2t + 8, 2t + 9
//   B, two words of two bf16:
//     word 0: rows 2t, 2t + 1, column g            word 1: rows 2t + 8, 2t + 9, column g
//   C and D, four f32:
//     0: row g, column 2t       1: row g, column 2t + 1
//     2: row g + 8, column 2t   3: row g + 8, column 2t + 1
//
// This table is the only place that knows it: packed weights (src/cuda/product/fragments.rs) and the kernels
// refer to it. The simulator works from the same table, so it cannot find a mistake in it: only a
// card can.
#pragma once

#include "platform.h"

namespace kaiwa {

// Numbers that a lane puts into one instruction.
struct MmaInput {
  uint32_t a[4];
  uint32_t b[2];
  float c[4];
};

#ifndef __CUDACC__
namespace sim_mma {

// Control of the tests: this lane's first word of A is taken for its second; negative for none.
inline int32_t& wrong_lane() {
  static thread_local int32_t lane = -1;
  return lane;
}

inline float half_of(uint32_t word, int odd) { return __uint_as_float(odd ? word & 0xffff0000u : word << 16); }

// The product of a warp, of what all lanes gave.
inline void together(const void* const* in, void* const* out) {
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& given = *static_cast<const MmaInput*>(in[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int word = 0; word < 4; ++word)
      for (int odd = 0; odd < 2; ++odd)
        a[g + 8 * (word % 2)][2 * t + 8 * (word / 2) + odd] =
            half_of(given.a[lane == wrong_lane() ? word ^ 1 : word], odd);
    for (int word = 0; word < 2; ++word)
      for (int odd = 0; odd < 2; ++odd) b[2 * t + 8 * word + odd][g] = half_of(given.b[word], odd);
    for (int i = 0; i < 4; ++i) c[g + 8 * (i / 2)][2 * t + i % 2] = given.c[i];
  }
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      // Products of two bf16 are exact in f32. In what order a card adds is not said; this one
      // does not depend on the other rows and columns either.
      float sum = c[row][column];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      c[row][column] = sum;
    }
  for (int lane = 0; lane < 32; ++lane) {
    if (!out[lane]) continue;
    auto* d = static_cast<float*>(out[lane]);
    for (int i = 0; i < 4; ++i) d[i] = c[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

}  // namespace sim_mma
#endif

// c += a b. All lanes of the warp must call it together.
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  const MmaInput in = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]}};
  sim::block().warp_barrier(0xffffffffu, &in, c, sim_mma::together);
#endif
}

}  // namespace kaiwa
