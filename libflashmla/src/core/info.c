/* info.c - the entry points that tell about the library: versions, and the kernel table. */
#include <string.h>

#include "core/operation.h"
#include "cuda/kernels.h"

int32_t flashmla_version(void) { return FLASHMLA_VERSION; }

int32_t flashmla_abi_version(void) { return FLASHMLA_ABI_VERSION; }

/* Rows of GPU kernels come first, then those of the CPU, operation by operation. */
int32_t flashmla_kernel_count(void) {
  int32_t rows = fm_cuda_kernel_count();
  for (int32_t i = 0; fm_operation_at(i) != NULL; ++i) rows += fm_operation_at(i)->num_cpu_kernels;
  return rows;
}

typedef flashmla_kernel_info info_type;
static const uint16_t ends[] = {FM_END(info_type, threads)};
static const fm_struct info_struct = FM_STRUCT("info", info_type, ends);

static void cpu_kernel_at(int32_t index, flashmla_kernel_info *info) {
  int32_t i = 0;
  for (; index >= fm_operation_at(i)->num_cpu_kernels; ++i) index -= fm_operation_at(i)->num_cpu_kernels;
  *info = fm_operation_at(i)->cpu_kernels[index];
}

flashmla_status flashmla_kernel_at(int32_t index, flashmla_kernel_info *info) {
  const int32_t cuda_rows = fm_cuda_kernel_count(), rows = flashmla_kernel_count();
  if (info == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "info is NULL; the row goes there");
  if (index < 0 || index >= rows)
    return fm_fail(FLASHMLA_ERROR_VALUE, "index is %d; it must be in [0, %d)", index, rows);
  uint32_t size;
  FM_TRY(fm_read_struct_size(info, &info_struct, &size));
  flashmla_kernel_info row;
  if (index < cuda_rows)
    fm_cuda_kernel_at(index, &row);
  else
    cpu_kernel_at(index - cuda_rows, &row);
  row.struct_size = size;
  const size_t known = size < sizeof row ? size : sizeof row;
  memcpy(info, &row, known);
  memset((char *)info + known, 0, size - known);
  return FLASHMLA_OK;
}
