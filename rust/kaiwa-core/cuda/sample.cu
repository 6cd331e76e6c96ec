// From logits to tokens, bit for bit as on the processor (lm/sampling.rs, lm/random.rs): the same
// candidates in the same order, the same random number, the same exponential, the same sums. What is
// f64 here is plain multiplications and additions, each rounded once in both languages.
// grid (rows), block 256 or 1024.
#include "args.h"
#include "platform.h"

namespace kaiwa_sampling {

// Candidates that fit into shared memory; more are sorted in global memory.
constexpr int FEW = 2048;

__device__ inline uint64_t mix(uint64_t word) {
  uint64_t z = word + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// In [0, 1), a function of the place in a conversation.
__device__ inline double uniform(uint64_t seed, uint64_t step, uint64_t draw) {
  const uint64_t word = mix(mix(mix(seed ^ 0x006b61697761ull) + step) + draw);
  return (double)(word >> 11) / 9007199254740992.0;
}

// e^x for x of at most 0; the twin of `exp` in lm/sampling.rs.
__device__ inline double exponential(double x) {
  if (!(x >= -708.0)) return 0.0;
  const double magic = 6755399441055744.0;
  const double n = (x * 1.4426950408889634 + magic) - magic;
  const double r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  return p * __longlong_as_double((long long)((uint64_t)((int64_t)n + 1023) << 52));
}

// Larger values have larger keys, and of equal ones the lower index; no two keys are equal.
__device__ inline uint64_t key_of(float value, int index) {
  const uint32_t bits = __float_as_uint(value);
  const uint32_t order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (uint64_t)order << 32 | (0xffffffffu - (uint32_t)index);
}

__device__ inline int index_of(uint64_t key) { return (int)(0xffffffffu - (uint32_t)key); }

// The largest value, and its lowest index.
struct Best {
  float value;
  int index;
};

__device__ inline Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

// The smallest of the `k` largest keys, or a number between it and the next smaller one.
__device__ inline uint64_t border(const float* logits, int count, int k) {
  KAIWA_SHARED(int32_t, histogram, [256]);
  KAIWA_SHARED(uint64_t, found, [2]);
  uint64_t prefix = 0;
  int need = k;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const uint64_t key = key_of(logits[i], i);
      if (shift == 56 || key >> (shift + 8) == prefix >> (shift + 8)) atomicAdd(&histogram[key >> shift & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 255, above = 0;
      while (above + histogram[digit] < need) above += histogram[digit--];
      found[0] = prefix | (uint64_t)digit << shift;
      // All of this digit are wanted: no need to look at lower ones.
      found[1] = (uint64_t)(need - above) | (histogram[digit] == need - above ? 1ull << 32 : 0);
    }
    __syncthreads();
    prefix = found[0];
    need = (int)(uint32_t)found[1];
    if (found[1] >> 32) break;
  }
  return prefix;
}

// Descending; `size` is a power of two.
__device__ inline void sort(uint64_t* keys, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int gap = run / 2; gap > 0; gap /= 2) {
      for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const int other = i ^ gap;
        if (other <= i) continue;
        const uint64_t a = keys[i], b = keys[other];
        if ((a < b) == ((i & run) == 0)) keys[i] = b, keys[other] = a;
      }
      __syncthreads();
    }
  }
}

}  // namespace kaiwa_sampling

extern "C" __global__ void __launch_bounds__(1024) kaiwa_sample(const SampleArgs a) {
  using namespace kaiwa_sampling;
  KAIWA_SHARED(uint64_t, few_keys, [FEW]);
  KAIWA_SHARED(double, few_weights, [FEW]);
  KAIWA_SHARED(float, best_values, [32]);
  KAIWA_SHARED(int32_t, best_indices, [32]);
  KAIWA_SHARED(int32_t, state, [2]);
  const int row = blockIdx.x, thread = threadIdx.x;
  int32_t* token = a.tokens + (int64_t)row * a.token_stride;
  int32_t* finite = a.finite + row;
  if (a.slots[row] < 0) {
    if (thread == 0) *token = 0, *finite = 1;
    return;
  }
  const float* logits = a.logits + (int64_t)row * a.vocabulary;
  if (thread == 0) state[0] = state[1] = 0;
  __syncthreads();

  Best best = {-INFINITY, 0x7fffffff};
  bool bad = false;
  for (int i = thread; i < a.vocabulary; i += blockDim.x) {
    const float v = logits[i];
    bad |= !(fabsf(v) <= 3.402823466e38f);
    best = better(best, Best{v, i});
  }
  if (bad) state[0] = 1;
  for (int bits = 16; bits > 0; bits /= 2) {
    const Best other = {__shfl_xor_sync(0xffffffffu, best.value, bits), __shfl_xor_sync(0xffffffffu, best.index, bits)};
    best = better(best, other);
  }
  if (thread % 32 == 0) best_values[thread / 32] = best.value, best_indices[thread / 32] = best.index;
  __syncthreads();
  best = Best{best_values[0], best_indices[0]};
  for (int w = 1; w < (int)blockDim.x / 32; ++w) best = better(best, Best{best_values[w], best_indices[w]});
  // Among numbers that are none there is no largest.
  if (best.index >= a.vocabulary) best.index = 0;
  if (thread == 0) {
    const int32_t before = a.first ? 1 : *finite;
    *finite = before && !state[0];
  }
  const int32_t forced = a.forced ? a.forced[(int64_t)row * a.forced_stride] : -1;
  const float temperature = a.temperatures[row];
  const int top_k = a.top_ks[row];
  if (forced >= 0 || temperature <= 0 || top_k == 1 || a.vocabulary < 2) {
    if (thread == 0) *token = forced >= 0 ? forced : best.index;
    return;
  }

  const bool some = top_k > 0 && top_k < a.vocabulary;
  const int count = some ? top_k : a.vocabulary;
  int size = 2;
  while (size < count) size *= 2;
  uint64_t* keys = size <= FEW ? few_keys : a.keys + (int64_t)row * a.room;
  double* weights = size <= FEW ? few_weights : a.weights + (int64_t)row * a.room;
  const uint64_t least = some ? border(logits, a.vocabulary, top_k) : 0;
  for (int i = count + thread; i < size; i += blockDim.x) keys[i] = 0;
  // In any order: sorting makes it one.
  for (int i = thread; i < a.vocabulary; i += blockDim.x) {
    const uint64_t key = key_of(logits[i], i);
    if (key >= least) keys[atomicAdd(&state[1], 1)] = key;
  }
  __syncthreads();
  sort(keys, size);
  const double top = (double)logits[best.index], scale = 1.0 / (double)temperature;
  for (int i = thread; i < count; i += blockDim.x)
    weights[i] = exponential(((double)logits[index_of(keys[i])] - top) * scale);
  __syncthreads();
  if (thread != 0) return;
  double total = 0;
  for (int i = 0; i < count; ++i) total += weights[i];
  double left = uniform((uint64_t)a.seeds[row], (uint64_t)a.steps[row], (uint64_t)a.draw) * total;
  int chosen = best.index;
  for (int i = 0; i < count; ++i) {
    left -= weights[i];
    if (left < 0) {
      chosen = index_of(keys[i]);
      break;
    }
  }
  *token = chosen;
}
KAIWA_KERNEL(sample, SampleArgs)
