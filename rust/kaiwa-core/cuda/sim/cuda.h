// What kernels use of CUDA, for the processor.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

// ---- vectors ----

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- numbers ----

struct alignas(2) __nv_bfloat16 { uint16_t x; };

inline unsigned __float_as_uint(float f) { unsigned u; std::memcpy(&u, &f, 4); return u; }
inline float __uint_as_float(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
inline int __float_as_int(float f) { int i; std::memcpy(&i, &f, 4); return i; }
inline float __int_as_float(int i) { float f; std::memcpy(&f, &i, 4); return f; }
inline long long __double_as_longlong(double d) { long long i; std::memcpy(&i, &d, 8); return i; }
inline double __longlong_as_double(long long i) { double d; std::memcpy(&d, &i, 8); return d; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) { return {v}; }
inline float __bfloat162float(__nv_bfloat16 v) { return __uint_as_float(unsigned(v.x) << 16); }
// To the nearest, ties to even; NaN is 0x7fff, as on a card.
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
  unsigned u = __float_as_uint(f);
  if ((u & 0x7fffffff) > 0x7f800000) return {0x7fff};
  return {uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float f) { return __float2bfloat16_rn(f); }
inline int __float2int_rn(float f) { return int(std::nearbyintf(f)); }
inline float __int2float_rn(int i) { return float(i); }

template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline int __ffs(int v) { return __builtin_ffs(v); }

// ---- the threads of a block ----

inline void __syncthreads() { sim::block().block_barrier(); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __syncwarp(unsigned mask = 0xffffffffu) { sim::block().warp_barrier(mask, nullptr, nullptr, nullptr); }

namespace sim {

template <class T> struct Shuffle { T value; int from; };

// Lane `from(lane)` of every lane; lanes that are out of range get their own.
template <class T> T shuffle(unsigned mask, T value, int from) {
  Shuffle<T> mine{value, from};
  T got{};
  block().warp_barrier(mask, &mine, &got, [](const void* const* in, void* const* out) {
    for (int lane = 0; lane < 32; ++lane) {
      if (!out[lane]) continue;
      const auto* own = static_cast<const Shuffle<T>*>(in[lane]);
      const auto* other = static_cast<const Shuffle<T>*>(in[own->from]);
      // A lane that takes no part has no value: the card gives anything then.
      if (other) *static_cast<T*>(out[lane]) = other->value;
      else std::memset(out[lane], 0xff, sizeof(T));
    }
  });
  return got;
}

inline int lane() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }

}  // namespace sim

template <class T> T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
  const int lane = sim::lane();
  return sim::shuffle(mask, v, (lane & ~(width - 1)) | (from & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
  const int lane = sim::lane(), to = lane ^ bits;
  return sim::shuffle(mask, v, (to & ~(width - 1)) <= (lane & ~(width - 1)) ? to : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
  const int lane = sim::lane(), to = lane + int(by);
  return sim::shuffle(mask, v, (to & ~(width - 1)) == (lane & ~(width - 1)) ? to : lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
  const int lane = sim::lane(), to = lane - int(by);
  return sim::shuffle(mask, v, to >= (lane & ~(width - 1)) ? to : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned got = 0;
  int mine = predicate != 0;
  sim::block().warp_barrier(mask, &mine, &got, [](const void* const* in, void* const* out) {
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane)
      if (in[lane] && out[lane]) bits |= unsigned(*static_cast<const int*>(in[lane])) << lane;
    for (int lane = 0; lane < 32; ++lane)
      if (out[lane]) *static_cast<unsigned*>(out[lane]) = bits;
  });
  return got;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline int __syncthreads_or(int predicate) {
  int* any = static_cast<int*>(sim::block().static_shared(0, sizeof(int)));
  __syncthreads();
  *any = 0;
  __syncthreads();
  if (predicate) *any = 1;
  __syncthreads();
  return *any;
}

// Blocks and threads run one at a time, so plain reads and writes are atomic.
template <class T> T atomicAdd(T* at, T v) { T old = *at; *at = T(old + v); return old; }
template <class T> T atomicMax(T* at, T v) { T old = *at; if (v > old) *at = v; return old; }
template <class T> T atomicMin(T* at, T v) { T old = *at; if (v < old) *at = v; return old; }
template <class T> T atomicOr(T* at, T v) { T old = *at; *at = T(old | v); return old; }
template <class T> T atomicAnd(T* at, T v) { T old = *at; *at = T(old & v); return old; }
template <class T> T atomicExch(T* at, T v) { T old = *at; *at = v; return old; }
template <class T> T atomicCAS(T* at, T wanted, T v) { T old = *at; if (old == wanted) *at = v; return old; }
inline unsigned atomicInc(unsigned* at, unsigned most) { unsigned old = *at; *at = old >= most ? 0 : old + 1; return old; }

// ---- memory ----

// Number 0 belongs to __syncthreads_or.
#define KAIWA_SHARED(type, name, dims)  \
  typedef type name##_shared dims;      \
  auto& name = *static_cast<name##_shared*>(sim::block().static_shared(__COUNTER__ + 1, sizeof(name##_shared)))

namespace kaiwa {

template <class T> T* dynamic_shared() { return reinterpret_cast<T*>(sim::block().dynamic_shared()); }

template <class V> void check_alignment(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(V))
    sim::block().fail("a vector of %zu bytes at an address that is not a multiple of it", sizeof(V));
}

template <class V, class T> V load(const T* from) {
  check_alignment<V>(from);
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <class V, class T> void store(T* to, V value) {
  check_alignment<V>(to);
  std::memcpy(to, &value, sizeof(V));
}

}  // namespace kaiwa

// ---- kernels by name ----

namespace sim {

struct Kernel {
  const char* name;
  size_t args_size;
  void (*run)(const void* args);
  Kernel* next;
};

inline Kernel*& kernels() {
  static Kernel* first = nullptr;
  return first;
}

struct Registration {
  Kernel kernel;
  Registration(const char* name, size_t size, void (*run)(const void*)) : kernel{name, size, run, kernels()} {
    kernels() = &kernel;
  }
};

}  // namespace sim

#define KAIWA_KERNEL(name, Args)                                       \
  static sim::Registration kaiwa_register_##name(                      \
      "kaiwa_" #name, sizeof(Args),                                    \
      [](const void* args) {                                           \
        Args copy;                                                     \
        std::memcpy(static_cast<void*>(&copy), args, sizeof copy);     \
        kaiwa_##name(copy);                                            \
      });
