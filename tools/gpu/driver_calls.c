/* Counts calls into the CUDA driver and cuBLAS: a library to be named in LD_PRELOAD. Each wrapper
 * adds one and calls the real function. Kernels that cuBLAS starts itself do not pass here; its
 * products are counted instead. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

typedef long word;
#define ARGUMENTS                                                                                  \
    word a, word b, word c, word d, word e, word f, word g, word h, word i, word j, word k,        \
        word l, word m, word n, word o, word p, word q, word r, word s, word t, word u, word v
#define PASS a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v

enum { LAUNCHES, GRAPHS, TO_DEVICE, TO_HOST, ON_DEVICE, FILLS, WAITS, ALLOCATIONS, PRODUCTS, KINDS };
static _Atomic long counts[KINDS];

long kaiwa_driver_calls(int kind) { return kind >= 0 && kind < KINDS ? counts[kind] : -1; }

/* All arguments of these functions are integers or pointers, so that passing on more words than a
 * function takes does no harm under the calling convention of x86-64 and aarch64. */
#define COUNT(kind, name)                                                                          \
    int name(ARGUMENTS) {                                                                          \
        static int (*real)(ARGUMENTS);                                                             \
        if (real == NULL) real = (int (*)(ARGUMENTS))dlsym(RTLD_NEXT, #name);                      \
        counts[kind]++;                                                                            \
        return real(PASS);                                                                         \
    }

COUNT(LAUNCHES, cuLaunchKernel)
COUNT(LAUNCHES, cuLaunchKernelEx)
COUNT(LAUNCHES, cudaLaunchKernel)
COUNT(LAUNCHES, cudaLaunchKernelExC)
COUNT(GRAPHS, cuGraphLaunch)
COUNT(TO_DEVICE, cuMemcpyHtoD_v2)
COUNT(TO_DEVICE, cuMemcpyHtoDAsync_v2)
COUNT(TO_HOST, cuMemcpyDtoH_v2)
COUNT(TO_HOST, cuMemcpyDtoHAsync_v2)
COUNT(ON_DEVICE, cuMemcpyDtoDAsync_v2)
COUNT(ON_DEVICE, cuMemcpyDtoD_v2)
COUNT(FILLS, cuMemsetD8Async)
COUNT(WAITS, cuStreamSynchronize)
COUNT(WAITS, cuCtxSynchronize)
COUNT(WAITS, cuEventSynchronize)
COUNT(ALLOCATIONS, cuMemAllocAsync)
COUNT(ALLOCATIONS, cuMemAlloc_v2)
COUNT(PRODUCTS, cublasGemmEx)
COUNT(PRODUCTS, cublasGemmStridedBatchedEx)
COUNT(PRODUCTS, cublasSgemm_v2)
COUNT(PRODUCTS, cublasSgemmStridedBatched)
