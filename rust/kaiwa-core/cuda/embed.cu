// Sums of embeddings, and what is added to them (docs/spec/moshi.md 2.2, 3.1). A token that its table
// does not have (-1 above all) adds nothing.
// grid (rows, ceil(dim / block)), block: any.
#include "args.h"
#include "platform.h"

extern "C" __global__ void __launch_bounds__(256) kaiwa_embed(const EmbedArgs a) {
  const int row = blockIdx.x, d = blockIdx.y * blockDim.x + threadIdx.x;
  if (d >= a.dim) return;
  const int32_t* tokens = a.tokens + (int64_t)row * a.token_stride;
  float sum = 0;
  for (int i = 0; i < a.count; ++i) {
    const EmbedTable table = a.tables[i];
    const int id = tokens[table.column];
    if (id < 0 || id >= table.rows) continue;
    const int64_t at = (int64_t)id * a.dim + d;
    sum += table.kind == EMBED_BF16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(table.data)[at])
                                    : static_cast<const float*>(table.data)[at];
  }
  if (a.conditions) sum += a.conditions[(int64_t)row * a.dim + d];
  a.out[(int64_t)row * a.dim + d] = sum;
}
KAIWA_KERNEL(embed, EmbedArgs)
