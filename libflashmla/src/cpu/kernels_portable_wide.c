/* kernels_portable_wide.c - the step of kernels_portable.c with room for all head sizes. */
#define NAME(part) fm_cpu_portable_wide_##part
#define WIDE
#include "cpu/kernels_portable.c"
