/* find.c - fm_kernel_find over a table with both flavours of a kernel: one for CUDA-13 drivers, one for CUDA-12 ones.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda/kernels.h"

const fm_kernel fm_kernels[] = {
    {.name = "bf16-13", .operation = FM_DENSE_DECODE, .dtype = FM_BF16, .cluster = 2, .min_driver = 13000},
    {.name = "bf16-12", .operation = FM_DENSE_DECODE, .dtype = FM_BF16, .cluster = 2, .min_driver = 12000},
    {.name = "fp16-12", .operation = FM_DENSE_DECODE, .dtype = FM_FP16, .cluster = 2, .min_driver = 12000},
    {.name = "bf16-small", .operation = FM_DENSE_DECODE, .dtype = FM_BF16, .cluster = 1, .min_driver = 12000},
    {.name = "plan", .operation = FM_PLAN, .dtype = FM_ANY_DTYPE, .cluster = 1, .min_driver = 12000},
};
const int32_t fm_kernel_count = sizeof fm_kernels / sizeof *fm_kernels;

/* kernels.c links to these, which finding does not call. */
flashmla_status fm_fail(flashmla_status status, const char *format, ...) {
  (void)status, (void)format;
  abort();
}
flashmla_status fm_driver_fail(const fm_driver *driver, const char *what, CUresult result) {
  (void)driver, (void)what, (void)result;
  abort();
}

/* Arguments: operation, dtype, cluster, driver version. */
int main(int count, char **texts) {
  if (count != 5) return 1;
  const fm_kernel *found = fm_kernel_find((fm_operation)atoi(texts[1]), atoi(texts[2]), atoi(texts[3]), atoi(texts[4]));
  puts(found ? found->name : "none");
  return 0;
}
