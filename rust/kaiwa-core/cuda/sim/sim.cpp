// The simulator's face to Rust (src/cuda/sim.rs).
#include "../kernels.cu"

namespace {

struct Place {
  const char* name;
  uint64_t offset, size;
};

template <class T> struct Layout;
#define KAIWA_PLACE(type, field) {#field, offsetof(Self, field), sizeof(Self::field)},
#define KAIWA_LAYOUT(Name, FIELDS)                              \
  template <> struct Layout<Name> {                             \
    using Self = Name;                                          \
    static const Place* places(size_t* count) {                 \
      static const Place list[] = {FIELDS(KAIWA_PLACE)};        \
      *count = sizeof list / sizeof list[0];                    \
      return list;                                              \
    }                                                           \
  };
KAIWA_ALL_ARGS(KAIWA_LAYOUT)

const sim::Kernel* find(const char* name) {
  for (const sim::Kernel* one = sim::kernels(); one; one = one->next)
    if (std::strcmp(one->name, name) == 0) return one;
  return nullptr;
}

void say(const std::string& text, char* error, uint64_t room) {
  if (room == 0) return;
  const size_t length = text.size() < room - 1 ? text.size() : room - 1;
  std::memcpy(error, text.data(), length);
  error[length] = 0;
}

}  // namespace

// Runs a kernel. `met` gets the most block and warp barriers that a thread met. Nonzero, and a
// sentence in `error`, if the kernel is unknown, its arguments have another size, or it did what a
// card does not forgive.
extern "C" int32_t kaiwa_sim_launch(const char* name, const uint32_t* grid, uint32_t threads,
                                    uint64_t shared, const void* args, uint64_t args_size,
                                    const sim::Options* options, int32_t* met, char* error,
                                    uint64_t room) {
  const sim::Kernel* kernel = find(name);
  if (!kernel) return say(std::string("no kernel ") + name, error, room), 1;
  if (kernel->args_size != args_size)
    return say(std::string("arguments of another size for ") + name, error, room), 1;
  if (threads == 0 || threads > 1024 || grid[0] == 0 || grid[1] == 0 || grid[2] == 0 ||
      grid[1] > 65535 || grid[2] > 65535)
    return say(std::string("a grid or block that no card takes for ") + name, error, room), 1;
  sim::Block& block = sim::block();
  const bool done = block.launch(dim3(grid[0], grid[1], grid[2]), dim3(threads), shared, *options,
                                 [kernel, args] { kernel->run(args); });
  met[0] = block.barriers;
  met[1] = block.warp_barriers;
  if (!done) say(std::string(name) + ": " + block.error, error, room);
  return done ? 0 : 1;
}

// The place of field `index` of a struct of arguments: its name, offset and size. Zero if there is
// no such struct or field. `whole` gets the size of the struct.
extern "C" const char* kaiwa_sim_field(const char* record, uint64_t index, uint64_t* offset,
                                       uint64_t* size, uint64_t* whole) {
#define KAIWA_FIND(Name, FIELDS)                                   \
  if (std::strcmp(record, #Name) == 0) {                           \
    size_t count;                                                  \
    const Place* places = Layout<Name>::places(&count);            \
    *whole = sizeof(Name);                                         \
    if (index >= count) return nullptr;                            \
    *offset = places[index].offset;                                \
    *size = places[index].size;                                    \
    return places[index].name;                                     \
  }
  KAIWA_ALL_ARGS(KAIWA_FIND)
  return nullptr;
}
