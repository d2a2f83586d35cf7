/* select.c - fm_kernel_select over a small table: two flavours of a kernel, for CUDA-13 drivers and for CUDA-12 ones,
 * the special before the general. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda/kernels.h"

#define ALL(dtype) {dtype, dtype, dtype}
#define DECODE(dtype) \
  .family = FM_KERNEL_DENSE_DECODE, .arch = 90, .target = "sm_90a", .elements = ALL(dtype), .d_v = 512
#define OTHER(name) .family = FM_KERNEL_##name, .arch = 90, .target = "sm_90a", .cluster = 1, .min_driver = 12000
#define ANY FM_DENSE_DECODE_ANY_PAGE
#define GATHERS (ANY | FM_DENSE_DECODE_GATHERS)
const fm_kernel fm_kernels[] = {
    {.name = "bf16-13", DECODE(FM_BF16), .d_qk = 576, .cluster = 2, .min_driver = 13000},
    {.name = "bf16-12", DECODE(FM_BF16), .d_qk = 576, .cluster = 2, .min_driver = 12000},
    {.name = "fp16-12", DECODE(FM_FP16), .d_qk = 576, .cluster = 2, .min_driver = 12000},
    {.name = "bf16-1", DECODE(FM_BF16), .d_qk = 576, .cluster = 1, .min_driver = 12000},
    {.name = "bf16-pages", DECODE(FM_BF16), .d_qk = 576, .features = ANY, .cluster = 2, .min_driver = 12000},
    {.name = "bf16-gather", DECODE(FM_BF16), .d_qk = 576, .features = GATHERS, .cluster = 2, .min_driver = 12000},
    {.name = "bf16-512", DECODE(FM_BF16), .d_qk = 512, .features = ANY, .cluster = 2, .min_driver = 12000},
    {.name = "bf16-v32", DECODE(FM_BF16), .kv_format = FLASHMLA_KV_V32, .d_qk = 576, .cluster = 2, .min_driver = 12000},
    {.name = "plan", OTHER(PLAN), .elements = ALL(FM_ANY_DTYPE)},
    {.name = "combine", OTHER(COMBINE), .elements = {FM_ANY_DTYPE, FM_ANY_DTYPE, FM_BF16}, .d_v = 512},
};
const int32_t fm_kernel_count = sizeof fm_kernels / sizeof *fm_kernels;

flashmla_status fm_fail(flashmla_status status, const char *format, ...) {
  va_list values;
  va_start(values, format);
  printf("%d: ", status);
  vprintf(format, values);
  puts("");
  va_end(values);
  return status;
}

/* Arguments: family, dtype, d_qk, features, cluster, driver version, architecture, format of the cache, and features
 * that are preferred. */
int main(int count, char **texts) {
  if (count != 10) return 1;
  int numbers[9];
  for (int i = 0; i < 9; i++) numbers[i] = atoi(texts[i + 1]);
  const fm_need need = {.family = (fm_kernel_family)numbers[0],
                        .elements = ALL((int8_t)numbers[1]),
                        .kv_format = (int8_t)numbers[7],
                        .d_qk = numbers[2],
                        .d_v = 512,
                        .features = (uint32_t)numbers[3],
                        .lacking = "pages of 64 tokens",
                        .preferred = (uint32_t)numbers[8],
                        .cluster = numbers[4],
                        .may_be_forced = numbers[0] == FM_KERNEL_DENSE_DECODE};
  const fm_kernel *kernel;
  if (fm_kernel_select(&need, numbers[6], numbers[5], &kernel) == FLASHMLA_OK) puts(kernel->name);
  return 0;
}
