// The kernels of product.h: for each form of weights (product_weights.h), strips of two and four
// tiles, up to 8 and up to 32 rows at once.
#include "product.h"

// Registers for as many blocks as have room for their rings.
#define KAIWA_PRODUCT(form, Weights, tiles, columns)                                         \
  extern "C" __global__ void __launch_bounds__(128, columns == 1 ? 4 : 2)                    \
      kaiwa_product_##form##_##tiles##x##columns(const ProductArgs a) {                      \
    kaiwa::product::Product<kaiwa::product::Weights, tiles, columns>::run(a);                                  \
  }                                                                                          \
  KAIWA_KERNEL(product_##form##_##tiles##x##columns, ProductArgs)

#define KAIWA_PRODUCTS(form, Weights) \
  KAIWA_PRODUCT(form, Weights, 2, 1)  \
  KAIWA_PRODUCT(form, Weights, 2, 4)  \
  KAIWA_PRODUCT(form, Weights, 4, 1)  \
  KAIWA_PRODUCT(form, Weights, 4, 4)

KAIWA_PRODUCTS(bf16, Bf16Weights)
KAIWA_PRODUCTS(int8_rows, Int8RowsWeights)
KAIWA_PRODUCTS(q8_0, Q8_0Weights)
KAIWA_PRODUCTS(q4_0, Q4_0Weights)
KAIWA_PRODUCTS(q4_1, Q4_1Weights)
KAIWA_PRODUCTS(affine8_32, Affine8Group32Weights)
KAIWA_PRODUCTS(affine8_64, Affine8Group64Weights)
KAIWA_PRODUCTS(affine4_32, Affine4Group32Weights)
KAIWA_PRODUCTS(affine4_64, Affine4Group64Weights)
// Not for speed: models of files in f32, exactly enough.
KAIWA_PRODUCT(f32, F32Weights, 2, 1)
KAIWA_PRODUCT(f32, F32Weights, 2, 4)

#ifndef __CUDACC__
// Control of the tests, for launches of this thread of the processor: see mma.h.
extern "C" void kaiwa_sim_wrong_mma_lane(int32_t lane) { kaiwa::sim_mma::wrong_lane() = lane; }
#endif
