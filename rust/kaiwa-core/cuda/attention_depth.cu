// Attention of one sub-step of the depth transformer (docs/spec/moshi.md 4): over the sub-steps of
// this frame alone, at most 32 of them, without positions. A warp for each row and query head: a
// lane scores one key, then has numbers of the output. Keys and values of this sub-step are taken
// from the projections, so that nobody waits for who writes them down.
//
// grid (ceil(rows heads / 4)), block 128.
#include "args.h"
#include "platform.h"

extern "C" __global__ void __launch_bounds__(128) kaiwa_attention_depth(const DepthAttentionArgs a) {
  const int lane = threadIdx.x % 32, task = blockIdx.x * 4 + threadIdx.x / 32;
  if (task >= a.rows * a.heads) return;
  const int row = task / a.heads, head = task % a.heads, repeat = a.heads / a.kv_heads, kv = head / repeat;
  const float* all = a.qkv + static_cast<int64_t>(row) * (a.heads + 2 * a.kv_heads) * a.dim;
  const float* query = all + head * a.dim;
  const float* own_key = all + (a.heads + kv) * a.dim;
  const float* own_value = own_key + a.kv_heads * a.dim;
  const int64_t past = (static_cast<int64_t>(row) * a.kv_heads + kv) * a.steps * a.dim;

  // One of the heads that share a key writes it.
  if (head % repeat == 0)
    for (int d = lane; d < a.dim; d += 32) {
      a.keys[past + a.step * a.dim + d] = own_key[d];
      a.values[past + a.step * a.dim + d] = own_value[d];
    }
  float score = -INFINITY;
  if (lane <= a.step) {
    const float* key = lane == a.step ? own_key : a.keys + past + lane * a.dim;
    float dot = 0;
    for (int d = 0; d < a.dim; d += 4) {
      const float4 k = kaiwa::load<float4>(key + d), q = kaiwa::load<float4>(query + d);
      dot = fmaf(q.x, k.x, dot);
      dot = fmaf(q.y, k.y, dot);
      dot = fmaf(q.z, k.z, dot);
      dot = fmaf(q.w, k.w, dot);
    }
    score = dot * a.score_scale;
  }
  float most = score;
  for (int bits = 16; bits > 0; bits /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, bits));
  // Scores are powers of two; lanes without a key weigh nothing.
  const float weight = lane <= a.step ? exp2f(score - most) : 0.0f;
  float sum = weight;
  for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
  float* out = a.out + (static_cast<int64_t>(row) * a.heads + head) * a.dim;
  for (int first = 0; first < a.dim; first += 32) {
    const int d = first + lane;
    float value = 0;
    for (int j = 0; j <= a.step; ++j) {
      const float by = __shfl_sync(0xffffffffu, weight, j);
      if (d < a.dim) value = fmaf(by, j == a.step ? own_value[d] : a.values[past + j * a.dim + d], value);
    }
    if (d < a.dim) out[d] = value / sum;
  }
}
KAIWA_KERNEL(attention_depth, DepthAttentionArgs)
