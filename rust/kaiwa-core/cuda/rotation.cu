// Cosines and sines of a step's positions, for all layers (docs/spec/moshi.md 3.5). In f64: in f32
// the angles of a day's call would be off by 0.06.
// grid (rows), block: any.
#include "args.h"
#include "platform.h"

extern "C" __global__ void __launch_bounds__(128) kaiwa_rotation(const RotationArgs a) {
  const int64_t position = a.positions[blockIdx.x];
  float* out = a.out + static_cast<int64_t>(blockIdx.x) * 2 * a.pairs;
  for (int i = threadIdx.x; i < a.pairs; i += blockDim.x) {
    const double angle = static_cast<double>(position) * a.speeds[i];
    out[i] = static_cast<float>(cos(angle));
    out[a.pairs + i] = static_cast<float>(sin(angle));
  }
}
KAIWA_KERNEL(rotation, RotationArgs)
