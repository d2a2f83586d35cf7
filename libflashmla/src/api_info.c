/* api_info.c - the entry points that tell about the library and the machine, and the wait for a stream. */
#include <stddef.h>

#include "internal.h"

flashmla_status flashmla_stream_synchronize(int32_t device_id, void *stream) {
  return fm_cuda_stream_synchronize(device_id, stream);
}

flashmla_status flashmla_driver_version(int32_t *version) {
  if (version == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "version is NULL; the result goes there");
  return fm_cuda_driver_version(version);
}

const char *flashmla_cpu_isa(void) { return fm_cpu_isa(); }

int32_t flashmla_version(void) {
  return FLASHMLA_VERSION_MAJOR * 10000 + FLASHMLA_VERSION_MINOR * 100 + FLASHMLA_VERSION_PATCH;
}

int32_t flashmla_abi_version(void) { return FLASHMLA_ABI_VERSION; }

int32_t flashmla_kernel_count(void) { return fm_cuda_kernel_count() + fm_cpu_kernel_count(); }

flashmla_status flashmla_kernel_at(int32_t index, flashmla_kernel_info *info) {
  const int32_t cuda_rows = fm_cuda_kernel_count(), rows = flashmla_kernel_count();
  if (info == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "info is NULL; the row goes there");
  if (index < 0 || index >= rows)
    return fm_fail(FLASHMLA_ERROR_VALUE, "index is %d; it must be in [0, %d)", index, rows);
  if (index < cuda_rows)
    fm_cuda_kernel_at(index, info);
  else
    fm_cpu_kernel_at(index - cuda_rows, info);
  return FLASHMLA_OK;
}
