// Sums over a block in one fixed order, whatever the launch.
#pragma once

#include "platform.h"

namespace kaiwa {

// The sum of `value` over all threads of the block, the same in each. Lanes are added in a
// butterfly, then the warps in ascending order. At most 32 whole warps; all threads must call it.
// `scratch` is shared, a float for each warp, and free again after the caller's next barrier.
__device__ inline float block_sum(float value, float* scratch) {
  for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(0xffffffffu, value, bits);
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (threadIdx.x % 32 == 0) scratch[warp] = value;
  __syncthreads();
  float sum = scratch[0];
  for (int w = 1; w < warps; ++w) sum += scratch[w];
  return sum;
}

}  // namespace kaiwa
