// One source for two compilers. Under nvcc this is CUDA; under a C++17 compiler it is the
// simulator of sim/, in which the threads of a block are fibers of one thread of the processor.
//
// Kernels use what CUDA has, and these for what differs:
//
//   KAIWA_SHARED(float, sums, [32])    a static shared array `sums`
//   kaiwa::dynamic_shared<float>()     the dynamic shared memory of the launch, aligned to 16 bytes
//   kaiwa::load<float4>(p)             a vector load whose alignment the simulator checks
//   kaiwa::store<float4>(p, v)         the same for a store
//   KAIWA_KERNEL(norm, NormArgs)       registers the kernel `kaiwa_norm` with the simulator
//
// Products are never contracted into fused ones behind the source's back (nvcc -fmad=false,
// -ffp-contract=off): where one rounding is wanted, the source says fmaf.
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <stdint.h>

#define KAIWA_SHARED(type, name, dims) __shared__ type name dims
#define KAIWA_KERNEL(name, args)

namespace kaiwa {

template <class T> __device__ inline T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char kaiwa_dynamic_shared[];
  return reinterpret_cast<T*>(kaiwa_dynamic_shared);
}

template <class V, class T> __device__ inline V load(const T* from) {
  return *reinterpret_cast<const V*>(from);
}

template <class V, class T> __device__ inline void store(T* to, V value) {
  *reinterpret_cast<V*>(to) = value;
}

}  // namespace kaiwa

#else

#include "sim/cuda.h"

#endif
