// The kernels of attention.h: rings of f32, bf16 and int8, and every width of a head that models
// have.
#include "attention.h"

#define KAIWA_ATTENTION(form, Type, width, ...)                                                  \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__)                                      \
      kaiwa_attention_##form##_##width(const AttentionArgs a) {                                  \
    kaiwa::attention::Attention<Type, width>::run(a);                                            \
  }                                                                                              \
  KAIWA_KERNEL(attention_##form##_##width, AttentionArgs)

// For the narrowest heads the compiler is told that one block a multiprocessor is enough: of itself
// it spills registers to make room for one more.
#define KAIWA_ATTENTIONS(form, Type)     \
  KAIWA_ATTENTION(form, Type, 8, 128, 1) \
  KAIWA_ATTENTION(form, Type, 16, 128)   \
  KAIWA_ATTENTION(form, Type, 32, 128)   \
  KAIWA_ATTENTION(form, Type, 64, 128)   \
  KAIWA_ATTENTION(form, Type, 128, 128)

KAIWA_ATTENTIONS(f32, float)
KAIWA_ATTENTIONS(bf16, __nv_bfloat16)
KAIWA_ATTENTIONS(int8, int8_t)
