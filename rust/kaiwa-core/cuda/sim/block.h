// A block of threads as fibers on one thread of the processor: they run one after the other, in
// ascending or descending order, each until it has to wait for others.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

inline thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace sim {

// What a launch is told beside its kernel.
struct Options {
  // Nonzero: blocks and threads in descending order.
  int32_t reverse;
  // Controls of tests: this call of __syncthreads (or of a warp's barrier) in each thread does not
  // wait; negative for none.
  int32_t skip_block_barrier;
  int32_t skip_warp_barrier;
};

// What the lanes of a warp do together once all are there: `in` and `out` are what each lane gave,
// null for lanes that take no part.
using Together = void (*)(const void* const* in, void* const* out);

struct Fiber {
  enum Wait : uint8_t { RUNS, BLOCK, WARP };
  Context context;
  bool done;
  Wait wait;
  uint32_t mask;
  const void* in;
  void* out;
  Together together;
  int32_t block_barriers, warp_barriers;
};

class Block {
 public:
  // Runs `body` for every thread of every block. False if something is wrong; then `error` says what.
  bool launch(dim3 grid, dim3 block, size_t shared, const Options& options,
              const std::function<void()>& body) {
    threads_ = static_cast<int>(block.x * block.y * block.z);
    options_ = options;
    body_ = &body;
    error.clear();
    barriers = warp_barriers = 0;
    gridDim = grid;
    blockDim = block;
    while (static_cast<int>(fibers_.size()) < threads_) fibers_.push_back(std::make_unique<Fiber>());
    dynamic_.reset(static_cast<unsigned char*>(std::aligned_alloc(128, (shared + 255) & ~size_t(127))));
    dynamic_size_ = shared;
    const size_t blocks = size_t(grid.x) * grid.y * grid.z;
    for (size_t i = 0; i < blocks && error.empty(); ++i) {
      const size_t b = options.reverse ? blocks - 1 - i : i;
      blockIdx = dim3(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
      run_block();
    }
    return error.empty();
  }

  // Ends the launch with an error, from inside a thread.
  [[noreturn]] void fail(const char* format, ...) {
    char text[256];
    va_list list;
    va_start(list, format);
    std::vsnprintf(text, sizeof text, format, list);
    va_end(list);
    char where[96];
    std::snprintf(where, sizeof where, " (block %u,%u,%u, thread %d)", blockIdx.x, blockIdx.y, blockIdx.z, current_);
    if (error.empty()) error = std::string(text) + where;
    scheduler_.enter(fibers_[current_]->context, true);
    std::abort();
  }

  // __syncthreads.
  void block_barrier() {
    Fiber& me = *fibers_[current_];
    const int32_t number = me.block_barriers++;
    barriers = me.block_barriers > barriers ? me.block_barriers : barriers;
    if (number == options_.skip_block_barrier) return;
    me.wait = Fiber::BLOCK;
    ++at_barrier_;
    if (!release_block()) pause();
  }

  // The lanes of `mask` meet; the last of them does `together` for all.
  void warp_barrier(uint32_t mask, const void* in, void* out, Together together) {
    Fiber& me = *fibers_[current_];
    const int lane = current_ % 32, first = current_ - lane;
    const int lanes = threads_ - first < 32 ? threads_ - first : 32;
    if (lanes < 32) mask &= (1u << lanes) - 1;
    if (!(mask >> lane & 1)) fail("a warp's function is called by a lane that its mask leaves out");
    const int32_t number = me.warp_barriers++;
    warp_barriers = me.warp_barriers > warp_barriers ? me.warp_barriers : warp_barriers;
    me.in = in;
    me.out = out;
    me.mask = mask;
    me.together = together;
    if (number == options_.skip_warp_barrier) {
      // With whatever the others have left behind.
      const void* ins[32] = {};
      void* outs[32] = {};
      for (int l = 0; l < lanes; ++l) ins[l] = in;
      outs[lane] = out;
      if (together) together(ins, outs);
      return;
    }
    me.wait = Fiber::WARP;
    const void* ins[32] = {};
    void* outs[32] = {};
    for (int l = 0; l < lanes; ++l) {
      if (!(mask >> l & 1)) continue;
      Fiber& other = *fibers_[first + l];
      if (other.done) fail("a warp waits for lane %d, which has ended", l);
      if (other.wait != Fiber::WARP || other.mask != mask || other.together != together) {
        pause();
        return;
      }
      ins[l] = other.in;
      outs[l] = other.out;
    }
    if (together) together(ins, outs);
    for (int l = 0; l < lanes; ++l)
      if (mask >> l & 1) fibers_[first + l]->wait = Fiber::RUNS;
  }

  // Static shared memory number `id` of this block.
  void* static_shared(int id, size_t size) {
    if (static_cast<int>(static_.size()) <= id) static_.resize(id + 1);
    auto& [memory, held, fresh] = static_[id];
    if (held < size) {
      memory.reset(static_cast<unsigned char*>(std::aligned_alloc(128, (size + 127) & ~size_t(127))));
      held = size;
      fresh = false;
    }
    if (!fresh) std::memset(memory.get(), POISON, size);
    fresh = true;
    return memory.get();
  }

  unsigned char* dynamic_shared() { return dynamic_.get(); }
  size_t dynamic_size() const { return dynamic_size_; }

  std::string error;
  // Most barriers that a thread of the last launch met.
  int32_t barriers = 0, warp_barriers = 0;

 private:
  // Shared memory holds anything at first: as floats NaN, as integers -1.
  static constexpr int POISON = 0xff;

  struct Free {
    void operator()(unsigned char* p) const { std::free(p); }
  };
  struct Static {
    std::unique_ptr<unsigned char, Free> memory;
    size_t held = 0;
    bool fresh = false;
  };

  static Block*& instance() {
    static thread_local Block* block = nullptr;
    return block;
  }

  static void entry() {
    Block& block = *instance();
    Context::begun(block.scheduler_);
    (*block.body_)();
    block.fibers_[block.current_]->done = true;
    ++block.done_;
    block.release_block();
    block.scheduler_.enter(block.fibers_[block.current_]->context, true);
    std::abort();
  }

  // Lets everybody go on if all who still run are at the barrier.
  bool release_block() {
    if (at_barrier_ == 0 || at_barrier_ + done_ != threads_) return false;
    for (int i = 0; i < threads_; ++i)
      if (fibers_[i]->wait == Fiber::BLOCK) fibers_[i]->wait = Fiber::RUNS;
    at_barrier_ = 0;
    return true;
  }

  void pause() { scheduler_.enter(fibers_[current_]->context); }

  void run_block() {
    instance() = this;
    at_barrier_ = done_ = 0;
    for (auto& one : static_) one.fresh = false;
    std::memset(dynamic_.get(), POISON, dynamic_size_);
    for (int i = 0; i < threads_; ++i) {
      Fiber& fiber = *fibers_[i];
      fiber.done = false;
      fiber.wait = Fiber::RUNS;
      fiber.block_barriers = fiber.warp_barriers = 0;
      fiber.context.prepare(entry);
    }
    while (done_ < threads_) {
      bool moved = false;
      for (int j = 0; j < threads_; ++j) {
        const int i = options_.reverse ? threads_ - 1 - j : j;
        Fiber& fiber = *fibers_[i];
        if (fiber.done || fiber.wait != Fiber::RUNS) continue;
        moved = true;
        current_ = i;
        threadIdx = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
        fiber.context.enter(scheduler_);
        if (!error.empty()) return;
      }
      if (!moved) {
        error = "threads wait for each other: a barrier is not reached by all";
        return;
      }
    }
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  Context scheduler_;
  const std::function<void()>* body_ = nullptr;
  Options options_ = {};
  int threads_ = 0, current_ = 0, at_barrier_ = 0, done_ = 0;
  std::unique_ptr<unsigned char, Free> dynamic_;
  size_t dynamic_size_ = 0;
  std::vector<Static> static_;
};

// The simulator of this thread of the processor: launches on several of them do not meet.
inline Block& block() {
  static thread_local Block one;
  return one;
}

}  // namespace sim
