// All kernels: one unit for nvcc, which makes one fatbin of it, and one for the simulator.
#include "norm.cu"
