// Switching between stacks. On x86-64 by hand (some nanoseconds), elsewhere by ucontext.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define KAIWA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KAIWA_ASAN 1
#endif
#endif

#ifdef KAIWA_ASAN
// The sanitizer is told which stack is in use.
extern "C" void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* saved, const void** bottom, size_t* size);
extern "C" void __asan_unpoison_memory_region(const volatile void* from, size_t size);
#endif

#if defined(__x86_64__) && defined(__linux__)
#define KAIWA_SWITCH_BY_HAND 1
// Saves the registers that a call must keep and the stack in *save; goes on where `to` was saved.
extern "C" void kaiwa_sim_switch(void** save, void* to);
asm(R"(
.text
.p2align 4
.globl kaiwa_sim_switch
.type kaiwa_sim_switch,@function
kaiwa_sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size kaiwa_sim_switch,.-kaiwa_sim_switch
)");
#else
#include <ucontext.h>
#endif

namespace sim {

// A stack and the place where whoever ran on it left off.
class Context {
 public:
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() { std::free(stack_); }

  // Makes this context begin in `entry` when it is next switched to. `entry` never returns.
  void prepare(void (*entry)()) {
    if (!stack_) stack_ = static_cast<char*>(std::malloc(SIZE));
    if (!stack_) std::abort();
#ifdef KAIWA_ASAN
    // Whoever ran here before never returned, so its frames are still marked.
    __asan_unpoison_memory_region(stack_, SIZE);
#endif
#ifdef KAIWA_SWITCH_BY_HAND
    auto top = reinterpret_cast<uintptr_t>(stack_ + SIZE) & ~uintptr_t(15);
    auto* at = reinterpret_cast<uintptr_t*>(top);
    *--at = 0;                                   // where `entry` would return to
    *--at = reinterpret_cast<uintptr_t>(entry);  // where the switch returns to
    for (int i = 0; i < 6; ++i) *--at = 0;       // the registers that it restores
    saved_ = at;
#else
    getcontext(&saved_);
    saved_.uc_stack.ss_sp = stack_;
    saved_.uc_stack.ss_size = SIZE;
    saved_.uc_link = nullptr;
    makecontext(&saved_, entry, 0);
#endif
  }

  // Leaves `from` for this context. `last`: `from` is never come back to.
  void enter(Context& from, bool last = false) {
#ifdef KAIWA_ASAN
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(last ? nullptr : &fake, bottom(), size());
#endif
#ifdef KAIWA_SWITCH_BY_HAND
    (void)last;
    kaiwa_sim_switch(&from.saved_, saved_);
#else
    (void)last;
    swapcontext(&from.saved_, &saved_);
#endif
#ifdef KAIWA_ASAN
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  // To be called first by whoever begins in this context; `from` is the context it came from.
  static void begun(Context& from) {
#ifdef KAIWA_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &from.bottom_, &from.size_);
#else
    (void)from;
#endif
  }

 private:
  static constexpr size_t SIZE = 256 << 10;
#ifdef KAIWA_ASAN
  const void* bottom() const { return stack_ ? stack_ : bottom_; }
  size_t size() const { return stack_ ? SIZE : size_; }
  // Of the thread's own stack, which nobody allocated here.
  const void* bottom_ = nullptr;
  size_t size_ = 0;
#endif
  char* stack_ = nullptr;
#ifdef KAIWA_SWITCH_BY_HAND
  void* saved_ = nullptr;
#else
  ucontext_t saved_;
#endif
};

}  // namespace sim
