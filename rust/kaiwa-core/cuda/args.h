// Arguments of the kernels: one struct each, passed by value.
//
// A struct is a list of fields, so that a test can compare their places with those of its
// `#[repr(C)]` twin in src/cuda/args.rs, field by field. Only pointers, int32_t, int64_t and float.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct __nv_bfloat16;

#define KAIWA_FIELD(type, name) type name;
#define KAIWA_ARGS(Name, FIELDS) \
  struct Name {                  \
    FIELDS(KAIWA_FIELD)          \
  };

// out[r] = norm of x[r], both [rows, dim] (norm.cu).
#define KAIWA_NORM_ARGS(F)                                                    \
  F(const float*, x)                                                          \
  F(const float*, weight) /* [dim] */                                         \
  F(const float*, bias)   /* [dim] for LayerNorm; null for RMSNorm */         \
  F(float*, out)                                                              \
  F(int32_t, dim)                                                             \
  F(float, eps)
KAIWA_ARGS(NormArgs, KAIWA_NORM_ARGS)

// Every struct above: what the test of their places goes through.
#define KAIWA_ALL_ARGS(A) \
  A(NormArgs, KAIWA_NORM_ARGS)
