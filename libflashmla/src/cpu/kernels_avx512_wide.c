/* kernels_avx512_wide.c - the step of kernels_avx512.c with room for all head sizes. */
#define NAME(part) fm_cpu_avx512_wide_##part
#define WIDE
#include "cpu/kernels_avx512.c"
