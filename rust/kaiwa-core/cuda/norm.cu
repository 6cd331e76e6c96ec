// RMSNorm and LayerNorm in f32 (docs/spec/moshi.md 3.3).
// grid (rows), block: any whole number of warps up to 1024.
#include "args.h"
#include "reduce.h"

extern "C" __global__ void __launch_bounds__(1024) kaiwa_norm(const NormArgs a) {
  KAIWA_SHARED(float, mean_sums, [32]);
  KAIWA_SHARED(float, square_sums, [32]);
  const float* x = a.x + (int64_t)blockIdx.x * a.dim;
  float* out = a.out + (int64_t)blockIdx.x * a.dim;
  float mean = 0;
  if (a.bias) {
    float sum = 0;
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) sum += x[i];
    mean = kaiwa::block_sum(sum, mean_sums) / (float)a.dim;
  }
  float squares = 0;
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
    const float d = x[i] - mean;
    squares = fmaf(d, d, squares);
  }
  const float scale = 1.0f / sqrtf(kaiwa::block_sum(squares, square_sums) / (float)a.dim + a.eps);
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
    const float y = (x[i] - mean) * (a.weight[i] * scale);
    out[i] = a.bias ? y + a.bias[i] : y;
  }
}
KAIWA_KERNEL(norm, NormArgs)
