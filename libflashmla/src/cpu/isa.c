/* isa.c - which micro-kernels this machine runs.
 * FLASHMLA_CPU_ISA is "portable", "avx2" or "avx512". One that the machine lacks, or another word, means the best. */
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"

const fm_cpu_kernels *fm_cpu_select(void) {
#if defined(__x86_64__)
  const char *forced = getenv("FLASHMLA_CPU_ISA");
  if (forced == NULL) forced = "";
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx2 || strcmp(forced, fm_cpu_portable.isa) == 0) return &fm_cpu_portable;
  if (!avx512 || strcmp(forced, fm_cpu_avx2.isa) == 0) return &fm_cpu_avx2;
  return &fm_cpu_avx512;
#else
  return &fm_cpu_portable;
#endif
}

const char *flashmla_cpu_isa(void) { return fm_cpu_select()->isa; }
