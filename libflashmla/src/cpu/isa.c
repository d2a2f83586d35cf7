/* isa.c - which micro-kernels this machine runs, and the backend's rows of the kernel table.
 * FLASHMLA_CPU_ISA is "portable", "avx2" or "avx512". One that the machine lacks, or another word, means the best. */
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

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

const char *fm_cpu_isa(void) { return fm_cpu_select()->isa; }

static const flashmla_kernel_info kernel_table[] = {
    [FM_BF16] = {.name = "dense_decode_bf16_cpu", .operation = "dense_decode", .dtype = "bfloat16", .target = "cpu"},
    [FM_FP16] = {.name = "dense_decode_fp16_cpu", .operation = "dense_decode", .dtype = "float16", .target = "cpu"},
    [FM_FP32] = {.name = "dense_decode_fp32_cpu", .operation = "dense_decode", .dtype = "float32", .target = "cpu"},
    [FM_CPU_MERGE_STATES_ROW] = {.name = "merge_states_cpu",
                                 .operation = "merge_states",
                                 .dtype = "any",
                                 .target = "cpu"},
};

int32_t fm_cpu_kernel_count(void) { return (int32_t)(sizeof kernel_table / sizeof kernel_table[0]); }

void fm_cpu_kernel_at(int32_t index, flashmla_kernel_info *info) { *info = kernel_table[index]; }
