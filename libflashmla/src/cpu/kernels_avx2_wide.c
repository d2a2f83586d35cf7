/* kernels_avx2_wide.c - the step of kernels_avx2.c with room for all head sizes. */
#define NAME(part) fm_cpu_avx2_wide_##part
#define WIDE
#include "cpu/kernels_avx2.c"
