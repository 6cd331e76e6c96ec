// The last of several blocks goes on with what all of them have written.
#pragma once

#include "platform.h"

namespace kaiwa {

// True in all threads of the block that comes last of `blocks` to this call with this counter; the
// others have ended their work then, and what they wrote to global memory can be read with
// `written`. The counter is zero before and after. All threads of a block must call it.
__device__ __forceinline__ bool last_block(int32_t* counter, int blocks) {
  KAIWA_SHARED(int32_t, last, [1]);
  // What this thread wrote is seen before the count; then all threads' writes, by the barrier.
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const int before = atomicAdd(counter, 1);
    last[0] = before == blocks - 1;
    if (last[0]) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return last[0] != 0;
}

// What another block wrote: read from the cache that all blocks share.
__device__ __forceinline__ float written(const float* at) {
#ifdef __CUDACC__
  return __ldcg(at);
#else
  return *at;
#endif
}

}  // namespace kaiwa
