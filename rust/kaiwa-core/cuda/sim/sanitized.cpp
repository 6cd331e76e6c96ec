// Every kernel over the simulator under AddressSanitizer and UndefinedBehaviorSanitizer
// (scripts/sanitize): called with pieces of memory that are exactly as large as `args.h` promises,
// so that a read or write beside one ends the program. Results are not looked at here; the tests in
// Rust do that. With an argument it is a control, which has to fail: "odd", "slot" or "barrier".
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "sim.cpp"

namespace {

// Pieces of memory, each by itself so that the sanitizer knows its end.
class Pieces {
 public:
  template <class T> T* of(size_t count, T value = T()) {
    auto piece = std::make_unique<char[]>(count * sizeof(T));
    T* made = reinterpret_cast<T*>(piece.get());
    for (size_t i = 0; i < count; ++i) made[i] = value;
    pieces_.push_back(std::move(piece));
    return made;
  }

  float* numbers(size_t count) {
    float* made = of<float>(count);
    for (size_t i = 0; i < count; ++i) made[i] = static_cast<float>((i * 37 + 11) % 101) / 50.0f - 1.0f;
    return made;
  }

 private:
  std::vector<std::unique_ptr<char[]>> pieces_;
};

std::set<std::string> called;

template <class Args>
void launch(const std::string& name, dim3 grid, unsigned block, size_t shared, const Args& args,
            sim::Options options = {0, -1, -1}) {
  const uint32_t sizes[3] = {grid.x, grid.y, grid.z};
  char error[512] = {};
  int32_t met[2];
  called.insert("kaiwa_" + name);
  if (kaiwa_sim_launch(("kaiwa_" + name).c_str(), sizes, block, shared, &args, sizeof args, &options, met, error,
                       sizeof error)) {
    std::fprintf(stderr, "%s\n", error);
    std::exit(2);
  }
}

// The outputs of a norm of three rows.
std::vector<float> norm(bool layer, size_t odd, sim::Options options) {
  constexpr int ROWS = 3, DIM = 67;
  Pieces p;
  NormArgs a{};
  // One number more, for the control that begins a byte late.
  a.x = reinterpret_cast<float*>(reinterpret_cast<char*>(p.numbers(ROWS * DIM + (odd ? 1 : 0))) + odd);
  a.weight = p.numbers(DIM);
  a.bias = layer ? p.numbers(DIM) : nullptr;
  a.out = p.of<float>(ROWS * DIM);
  a.dim = DIM;
  a.eps = 1e-5f;
  launch("norm", dim3(ROWS), 64, 0, a, options);
  return {a.out, a.out + ROWS * DIM};
}

template <class T> void attention(const char* form, int dim, int last_slot) {
  constexpr int ROWS = 4, SLOTS = 3, KV = 2, HEADS = 4, CONTEXT = 11, SPLIT = 4, SPLITS = 3;
  Pieces p;
  AttentionArgs a{};
  a.qkv = p.numbers(ROWS * (HEADS + 2 * KV) * dim);
  a.rotation = p.numbers(ROWS * dim);
  int32_t* slots = p.of<int32_t>(ROWS);
  int64_t* positions = p.of<int64_t>(ROWS);
  const int32_t of[ROWS] = {last_slot, 0, -1, 1};
  const int64_t at[ROWS] = {0, 7, 0, 29};
  for (int r = 0; r < ROWS; ++r) slots[r] = of[r], positions[r] = at[r];
  a.slots = slots, a.positions = positions;
  a.keys = p.of<T>(SLOTS * KV * CONTEXT * dim), a.values = p.of<T>(SLOTS * KV * CONTEXT * dim);
  if (sizeof(T) == 1) a.key_scales = p.numbers(SLOTS * KV * CONTEXT), a.value_scales = p.numbers(SLOTS * KV * CONTEXT);
  a.out = p.of<float>(ROWS * HEADS * dim);
  a.partial = p.of<float>(ROWS * HEADS * SPLITS * (dim + 2));
  a.counters = p.of<int32_t>(ROWS * KV);
  a.heads = HEADS, a.kv_heads = KV, a.context = CONTEXT, a.split = SPLIT, a.splits = SPLITS;
  a.score_scale = 0.1f;
  for (a.halves = 0; a.halves < 2; ++a.halves)
    launch(std::string("attention_") + form + "_" + std::to_string(dim), dim3(SPLITS, KV, ROWS), 128, 0, a);
}

void attention_depth() {
  constexpr int ROWS = 3, HEADS = 4, KV = 2, DIM = 12, STEPS = 5;
  Pieces p;
  DepthAttentionArgs a{};
  a.qkv = p.numbers(ROWS * (HEADS + 2 * KV) * DIM);
  a.keys = p.of<float>(ROWS * KV * STEPS * DIM), a.values = p.of<float>(ROWS * KV * STEPS * DIM);
  a.out = p.of<float>(ROWS * HEADS * DIM);
  a.rows = ROWS, a.heads = HEADS, a.kv_heads = KV, a.dim = DIM, a.steps = STEPS, a.score_scale = 0.1f;
  for (a.step = 0; a.step < STEPS; ++a.step) launch("attention_depth", dim3((ROWS * HEADS + 3) / 4), 128, 0, a);
}

// A form of weights: vectors of 16 bytes that a lane reads of a unit, bytes of scales of an output,
// inputs of a unit (src/cuda/product/form.rs).
struct Form {
  const char* name;
  int chunks, scales, unit;
  bool row_scales;
};

void product(const Form& form, int strip, int columns, int splits) {
  const int rows = columns == 1 ? 5 : 19, units = 3 * splits, tiles = 2 * strip, n = 16 * tiles - 5;
  const int blocks = (rows + 8 * columns - 1) / (8 * columns);
  Pieces p;
  ProductArgs a{};
  a.weights = p.of<unsigned char>(size_t(tiles) * units * (512 * form.chunks + 8 * form.scales), 0x11);
  a.row_scales = form.row_scales ? p.numbers(16 * tiles) : nullptr;
  a.x = p.numbers(size_t(rows) * units * form.unit);
  a.scale = p.numbers(n);
  a.out = p.of<float>(rows * n);
  a.residual = a.out;
  a.partial = splits > 1 ? p.of<float>(size_t(splits) * rows * 16 * tiles) : nullptr;
  a.counters = splits > 1 ? p.of<int32_t>(blocks * tiles / strip) : nullptr;
  a.rows = rows, a.k = units * form.unit, a.n = n, a.tiles = tiles, a.units = units, a.splits = splits;
  // As in src/cuda/product/plan.rs.
  const int stage = strip * (512 * form.chunks + 32 * form.scales), fit = (64 << 10) / (4 * stage);
  const int stages = fit < 3 ? 3 : fit > 8 ? 8 : fit, sums = 4 * strip * columns * 4 * 32 * 4;
  const int shared = 4 * stages * stage > sums ? 4 * stages * stage : sums;
  const std::string cut = std::to_string(strip) + "x" + std::to_string(columns);
  launch(std::string("product_") + form.name + "_" + cut, dim3(blocks, tiles / strip, splits), 128, shared, a);
}

void embed() {
  constexpr int ROWS = 3, DIM = 150, CARD = 5;
  Pieces p;
  EmbedTable* tables = p.of<EmbedTable>(2);
  tables[0] = EmbedTable{p.numbers(CARD * DIM), CARD, 1, EMBED_F32, 0};
  tables[1] = EmbedTable{p.of<uint16_t>(CARD * DIM, 0x3f80), CARD, 0, EMBED_BF16, 0};
  int32_t* tokens = p.of<int32_t>(ROWS * 2);
  const int32_t ids[ROWS * 2] = {0, CARD - 1, -1, CARD, CARD - 1, 0};
  for (int i = 0; i < ROWS * 2; ++i) tokens[i] = ids[i];
  EmbedArgs a{};
  a.tables = tables, a.tokens = tokens, a.conditions = p.numbers(ROWS * DIM), a.out = p.of<float>(ROWS * DIM);
  a.count = 2, a.token_stride = 2, a.dim = DIM;
  launch("embed", dim3(ROWS, (DIM + 127) / 128), 128, 0, a);
}

void rotation() {
  constexpr int ROWS = 3, PAIRS = 32;
  Pieces p;
  RotationArgs a{};
  a.positions = p.of<int64_t>(ROWS, int64_t(1) << 40), a.speeds = p.of<double>(PAIRS, 0.5);
  a.out = p.of<float>(ROWS * 2 * PAIRS), a.pairs = PAIRS;
  launch("rotation", dim3(ROWS), 64, 0, a);
}

void sample(int vocabulary, int top_k, int room) {
  constexpr int ROWS = 3;
  Pieces p;
  SampleArgs a{};
  a.logits = p.numbers(ROWS * vocabulary);
  int32_t* slots = p.of<int32_t>(ROWS);
  slots[1] = -1;
  a.slots = slots, a.temperatures = p.of<float>(ROWS, 0.8f), a.top_ks = p.of<int32_t>(ROWS, top_k);
  a.seeds = p.of<int64_t>(ROWS, -1), a.steps = p.of<int64_t>(ROWS, 7), a.forced = p.of<int32_t>(ROWS, -1);
  a.tokens = p.of<int32_t>(ROWS), a.finite = p.of<int32_t>(ROWS);
  if (room) a.keys = p.of<uint64_t>(ROWS * room), a.weights = p.of<double>(ROWS * room);
  a.vocabulary = vocabulary, a.forced_stride = a.token_stride = 1, a.room = room, a.first = 1;
  launch("sample", dim3(ROWS), 256, 0, a);
}

int run_all() {
  for (const bool layer : {false, true}) norm(layer, 0, {0, -1, -1});
  for (const int dim : {8, 16, 32, 64, 128}) {
    attention<float>("f32", dim, 2);
    attention<uint16_t>("bf16", dim, 2);
    attention<int8_t>("int8", dim, 2);
  }
  attention_depth();
  const Form forms[] = {
      {"f32", 4, 0, 32, false},        {"bf16", 2, 0, 32, false},       {"int8_rows", 2, 0, 64, true},
      {"q8_0", 2, 8, 64, false},       {"q4_0", 1, 8, 64, false},       {"q4_1", 1, 16, 64, false},
      {"affine8_32", 2, 16, 64, false}, {"affine8_64", 2, 8, 64, false}, {"affine4_32", 1, 16, 64, false},
      {"affine4_64", 1, 8, 64, false},
  };
  for (const Form& form : forms)
    for (const int strip : {2, 4})
      for (const int columns : {1, 4})
        for (const int splits : {1, 2})
          if (strip == 2 || std::string(form.name) != "f32") product(form, strip, columns, splits);
  embed();
  rotation();
  sample(64, 25, 0), sample(64, 0, 0), sample(2500, 0, 4096), sample(2500, 2100, 4096);
  int missed = 0;
  for (const sim::Kernel* one = sim::kernels(); one; one = one->next)
    if (!called.count(one->name)) std::fprintf(stderr, "%s was not called\n", one->name), ++missed;
  std::printf("%zu kernels, nothing found\n", called.size());
  return missed ? 3 : 0;
}

}  // namespace

int main(int count, char** words) {
  const std::string control = count > 1 ? words[1] : "";
  if (control.empty()) return run_all();
  if (control == "odd") norm(false, 1, {0, -1, -1});
  if (control == "slot") attention<float>("f32", 64, 3);
  if (control == "barrier") {
    // The first barrier does not wait: sums of warps that are not written yet are none.
    for (const float v : norm(false, 0, {0, 0, -1}))
      if (!(std::fabs(v) < 1e30f)) return std::puts("a missing barrier shows"), 4;
  }
  return 0;
}
