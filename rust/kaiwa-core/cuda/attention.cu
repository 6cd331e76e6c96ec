// The kernels of attention.h: rings of f32, bf16 and int8, and every width of a head that models
// have.
#include "attention.h"

#define KAIWA_ATTENTION(form, Type, width)                                                       \
  extern "C" __global__ void __launch_bounds__(128)                                              \
      kaiwa_attention_##form##_##width(const AttentionArgs a) {                                  \
    kaiwa::attention::Attention<Type, width>::run(a);                                                       \
  }                                                                                              \
  KAIWA_KERNEL(attention_##form##_##width, AttentionArgs)

#define KAIWA_ATTENTIONS(form, Type) \
  KAIWA_ATTENTION(form, Type, 8)     \
  KAIWA_ATTENTION(form, Type, 16)    \
  KAIWA_ATTENTION(form, Type, 32)    \
  KAIWA_ATTENTION(form, Type, 64)    \
  KAIWA_ATTENTION(form, Type, 128)

KAIWA_ATTENTIONS(f32, float)
KAIWA_ATTENTIONS(bf16, __nv_bfloat16)
KAIWA_ATTENTIONS(int8, int8_t)
