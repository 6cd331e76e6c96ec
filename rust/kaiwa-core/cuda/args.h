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

// out[r, n] = sum over k of x[r, k] W[n, k], and what `epilogue` says (product.h).
#define KAIWA_PRODUCT_ARGS(F)                                                                 \
  F(const unsigned char*, weights) /* as packed by src/cuda/product, aligned to 16 bytes */   \
  F(const float*, row_scales)      /* [16 tiles], or null: factors of the sums */             \
  F(const float*, x)               /* [rows, k], aligned to 16 bytes */                       \
  F(const float*, residual)        /* [rows, n], or null; may be `out` */                     \
  F(const float*, scale)           /* [n], or null: factors of the outputs */                 \
  F(float*, out)                   /* [rows, n] */                                            \
  F(float*, partial)               /* [splits, rows, 16 tiles], if there are several splits */ \
  F(int32_t*, counters)            /* one for each block of the first two axes, zero */       \
  F(int32_t, rows)                                                                            \
  F(int32_t, k)                                                                               \
  F(int32_t, n)        /* outputs after the epilogue */                                       \
  F(int32_t, tiles)    /* of 16 outputs before it; a multiple of the kernel's strip */        \
  F(int32_t, units)    /* of inputs */                                                        \
  F(int32_t, splits)                                                                          \
  F(int32_t, epilogue) /* kaiwa::ProductEpilogue */                                           \
  F(int32_t, padding)  /* 0 */
KAIWA_ARGS(ProductArgs, KAIWA_PRODUCT_ARGS)

// Attention over rings, with the step's own keys written first (attention.h).
#define KAIWA_ATTENTION_ARGS(F)                                                               \
  F(const float*, qkv)         /* [rows, (heads + 2 kv_heads) D]: queries, keys, values */    \
  F(const float*, rotation)    /* [rows, D]: D / 2 cosines, D / 2 sines (rotation.cu) */      \
  F(const int32_t*, slots)     /* [rows]; below 0: the row is none */                         \
  F(const int64_t*, positions) /* [rows] */                                                   \
  F(void*, keys)               /* [slots, kv_heads, context, D], aligned to 16 bytes */       \
  F(void*, values)             /* the same */                                                 \
  F(float*, key_scales)        /* [slots, kv_heads, context] for int8, else null */           \
  F(float*, value_scales)      /* the same */                                                 \
  F(float*, out)               /* [rows, heads D]; zeros for rows that are none */            \
  F(float*, partial)           /* [rows, heads, splits, D + 2], if there are several splits */ \
  F(int32_t*, counters)        /* [rows, kv_heads], zero */                                   \
  F(int32_t, heads)                                                                           \
  F(int32_t, kv_heads)                                                                        \
  F(int32_t, context)                                                                         \
  F(int32_t, split)            /* columns of a split */                                       \
  F(int32_t, splits)           /* ceil(context / split) */                                    \
  F(int32_t, halves)           /* pairs that turn: 0 neighbours, 1 those of the two halves */ \
  F(float, score_scale)        /* log2(e) / sqrt(D) */                                        \
  F(int32_t, padding)          /* 0 */
KAIWA_ARGS(AttentionArgs, KAIWA_ATTENTION_ARGS)

// Attention of sub-step `step` of the depth transformer (attention_depth.cu).
#define KAIWA_DEPTH_ATTENTION_ARGS(F)                                                      \
  F(const float*, qkv) /* [rows, (heads + 2 kv_heads) dim], aligned to 16 bytes */         \
  F(float*, keys)      /* [rows, kv_heads, steps, dim], aligned to 16 bytes */             \
  F(float*, values)    /* the same */                                                      \
  F(float*, out)       /* [rows, heads dim] */                                             \
  F(int32_t, rows)                                                                         \
  F(int32_t, heads)                                                                        \
  F(int32_t, kv_heads)                                                                     \
  F(int32_t, dim)      /* a multiple of 4 */                                               \
  F(int32_t, step)                                                                         \
  F(int32_t, steps)    /* at most 32 */                                                    \
  F(float, score_scale) /* log2(e) / sqrt(dim) */                                          \
  F(int32_t, padding)  /* 0 */
KAIWA_ARGS(DepthAttentionArgs, KAIWA_DEPTH_ATTENTION_ARGS)

// Cosines and sines of positions (rotation.cu).
#define KAIWA_ROTATION_ARGS(F)                                            \
  F(const int64_t*, positions) /* [rows] */                               \
  F(const double*, speeds)     /* [pairs]: angle of a step */             \
  F(float*, out)               /* [rows, 2 pairs]: cosines, then sines */ \
  F(int32_t, pairs)                                                       \
  F(int32_t, padding)          /* 0 */
KAIWA_ARGS(RotationArgs, KAIWA_ROTATION_ARGS)

// A table of embeddings [rows, dim] for the tokens of one column.
enum EmbedKind : int32_t { EMBED_F32 = 0, EMBED_BF16 = 1 };
struct EmbedTable {
  const void* data;
  int32_t rows, column;
  int32_t kind, padding;
};

// out[r] = sum over tables of their rows of r's tokens (embed.cu).
#define KAIWA_EMBED_ARGS(F)                                                                   \
  F(const EmbedTable*, tables) /* [count], in the order of the sum */                         \
  F(const int32_t*, tokens)    /* [rows, token_stride] */                                     \
  F(const float*, conditions)  /* [rows, dim] added at the end, or null */                    \
  F(float*, out)               /* [rows, dim] */                                              \
  F(int32_t, count)                                                                           \
  F(int32_t, token_stride)                                                                    \
  F(int32_t, dim)                                                                             \
  F(int32_t, padding)          /* 0 */
KAIWA_ARGS(EmbedArgs, KAIWA_EMBED_ARGS)

// A token for each row of logits (sample.cu).
#define KAIWA_SAMPLE_ARGS(F)                                                                  \
  F(const float*, logits)        /* [rows, vocabulary] */                                     \
  F(const int32_t*, slots)       /* [rows]; below 0: the row is none */                       \
  F(const float*, temperatures)  /* [rows]; at most 0: the likeliest */                       \
  F(const int32_t*, top_ks)      /* [rows]; 0: all */                                         \
  F(const int64_t*, seeds)       /* [rows] */                                                 \
  F(const int64_t*, steps)       /* [rows] */                                                 \
  F(const int32_t*, forced)      /* [rows, forced_stride], below 0: sampled; or null */       \
  F(int32_t*, tokens)            /* [rows, token_stride] */                                   \
  F(int32_t*, finite)            /* [rows]: 0 where a logit is none */                        \
  F(uint64_t*, keys)             /* [rows, room], for more candidates than 2048; else null */ \
  F(double*, weights)            /* the same */                                               \
  F(int32_t, vocabulary)                                                                      \
  F(int32_t, draw)               /* which draw of the step */                                 \
  F(int32_t, forced_stride)                                                                   \
  F(int32_t, token_stride)                                                                    \
  F(int32_t, room)               /* a power of two that is not below the vocabulary */        \
  F(int32_t, first)              /* nonzero: `finite` begins here */
KAIWA_ARGS(SampleArgs, KAIWA_SAMPLE_ARGS)

// Every struct above: what the test of their places goes through.
#define KAIWA_ALL_ARGS(A) \
  A(NormArgs, KAIWA_NORM_ARGS) \
  A(ProductArgs, KAIWA_PRODUCT_ARGS) \
  A(AttentionArgs, KAIWA_ATTENTION_ARGS) \
  A(DepthAttentionArgs, KAIWA_DEPTH_ATTENTION_ARGS) \
  A(RotationArgs, KAIWA_ROTATION_ARGS) \
  A(EmbedArgs, KAIWA_EMBED_ARGS) \
  A(SampleArgs, KAIWA_SAMPLE_ARGS)
