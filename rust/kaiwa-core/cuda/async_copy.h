// Copies from global to shared memory that go on while the thread works (cp.async). A thread reads
// only what it has copied itself, so no barrier is needed: waiting for its own copies is enough.
#pragma once

#include "platform.h"

namespace kaiwa {

// Copies of one thread, in groups that end in the order in which they began. The simulator copies
// as late as is allowed: when a group is waited for. Reading too early finds what was there before.
class AsyncCopies {
 public:
  // Begins to copy BYTES (4, 8 or 16, both addresses multiples of it).
  template <int BYTES> __device__ __forceinline__ void copy(void* shared, const void* global) {
#ifdef __CUDACC__
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    if constexpr (BYTES == 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
    else
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(BYTES) : "memory");
#else
    if (reinterpret_cast<uintptr_t>(shared) % BYTES || reinterpret_cast<uintptr_t>(global) % BYTES)
      sim::block().fail("a copy of %d bytes at an address that is not a multiple of it", BYTES);
    if (end_ - begin_ == MOST) sim::block().fail("more copies at once than the simulator holds");
    open_[end_++ % MOST] = {shared, global, BYTES, groups_};
#endif
  }

  // Ends a group: the copies since the group before.
  __device__ __forceinline__ void commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    ++groups_;
#endif
  }

  // Waits until at most LEFT groups are unfinished.
  template <int LEFT> __device__ __forceinline__ void wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#else
    while (begin_ != end_ && open_[begin_ % MOST].group < groups_ - LEFT) {
      const Copy& one = open_[begin_++ % MOST];
      std::memcpy(one.to, one.from, one.bytes);
    }
#endif
  }

#ifndef __CUDACC__
 private:
  struct Copy {
    void* to;
    const void* from;
    int bytes, group;
  };
  static constexpr unsigned MOST = 128;
  Copy open_[MOST];
  unsigned begin_ = 0, end_ = 0;
  int groups_ = 0;
#endif
};

}  // namespace kaiwa
