/* select.c - fm_kernel_select over a small table: two flavours of a kernel, for CUDA-13 drivers and for CUDA-12 ones,
 * the special before the general. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda/kernels.h"

#define DECODE .operation = FM_DENSE_DECODE, .d_v = 512
const fm_kernel fm_kernels[] = {
    {.name = "bf16-13", DECODE, .dtype = FM_BF16, .d_qk = 576, .cluster = 2, .min_driver = 13000},
    {.name = "bf16-12", DECODE, .dtype = FM_BF16, .d_qk = 576, .cluster = 2, .min_driver = 12000},
    {.name = "fp16-12", DECODE, .dtype = FM_FP16, .d_qk = 576, .cluster = 2, .min_driver = 12000},
    {.name = "bf16-1", DECODE, .dtype = FM_BF16, .d_qk = 576, .cluster = 1, .min_driver = 12000},
    {.name = "bf16-pages", DECODE, .dtype = FM_BF16, .d_qk = 576, .any_page = true, .cluster = 2, .min_driver = 12000},
    {.name = "bf16-512", DECODE, .dtype = FM_BF16, .d_qk = 512, .any_page = true, .cluster = 2, .min_driver = 12000},
    {.name = "plan", .operation = FM_PLAN, .dtype = FM_ANY_DTYPE, .cluster = 1, .min_driver = 12000},
    {.name = "combine", .operation = FM_COMBINE, .dtype = FM_BF16, .d_v = 512, .cluster = 1, .min_driver = 12000},
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

/* Arguments: operation, dtype, d_qk, page size, cluster, driver version. Or s_q, h_q, h_kv, varlen, balanced: the
 * cluster of a problem on 132 processors. */
int main(int count, char **texts) {
  int numbers[8] = {0};
  for (int i = 1; i < count && i < 8; i++) numbers[i - 1] = atoi(texts[i]);
  if (count == 6) {
    const fm_problem problem = {.s_q = numbers[0], .h_q = numbers[1], .h_kv = numbers[2], .varlen = numbers[3] != 0};
    int32_t cluster;
    if (fm_kernel_cluster(&problem, numbers[4] != 0, 132, &cluster) == FLASHMLA_OK) printf("%d\n", cluster);
    return 0;
  }
  if (count != 7) return 1;
  const fm_need need = {.operation = (fm_operation)numbers[0],
                        .dtype = numbers[1],
                        .d_qk = numbers[2],
                        .d_v = 512,
                        .page_size = numbers[3],
                        .cluster = numbers[4],
                        .driver_version = numbers[5]};
  const fm_kernel *kernel;
  if (fm_kernel_select(&need, &kernel) == FLASHMLA_OK) puts(kernel->name);
  return 0;
}
