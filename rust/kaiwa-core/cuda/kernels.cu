// All kernels: one unit for nvcc, which makes one fatbin of it, and one for the simulator.
#include "attention.cu"
#include "attention_depth.cu"
#include "embed.cu"
#include "norm.cu"
#include "product.cu"
#include "rotation.cu"
#include "sample.cu"
