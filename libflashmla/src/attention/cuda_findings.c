/* cuda_findings.c - see cuda_findings.h. */
#include "attention/cuda_findings.h"

#include <pthread.h>
#include <string.h>

_Static_assert(sizeof(fm_finding) == FM_KERNEL_FINDING_BYTES, "a record of dsl_kernels/check_decode");
_Static_assert((int)FM_VALUES == FM_KERNEL_CHECKED_VALUES, "its records");

typedef fm_finding device_findings[FM_VALUES];
static device_findings *all; /* of every device; NULL until the mode was used */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static flashmla_status allocate_locked(fm_gpu gpu, void *stream) {
  int capture = CU_STREAM_CAPTURE_STATUS_NONE;
  const CUresult result = gpu.driver->stream_is_capturing((CUstream)stream, &capture);
  if (result != 0 || capture != CU_STREAM_CAPTURE_STATUS_NONE)
    return fm_fail(FLASHMLA_ERROR_VALUE,
                   "{params.|}stream is captured, and the memory of FLASHMLA_CHECK is not there yet; make or prepare a "
                   "call before the capture");
  void *memory;
  const size_t bytes = FM_MAX_DEVICES * sizeof(device_findings);
  FM_DRIVER_TRY(gpu.driver, mem_host_alloc, &memory, bytes, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
  memset(memory, 0, bytes);
  __atomic_store_n(&all, memory, __ATOMIC_RELEASE);
  return FLASHMLA_OK;
}

flashmla_status fm_findings_of(fm_gpu gpu, void *stream, fm_finding **findings) {
  flashmla_status status = FLASHMLA_OK;
  if (__atomic_load_n(&all, __ATOMIC_ACQUIRE) == NULL) {
    pthread_mutex_lock(&lock);
    if (all == NULL) { /* by another thread meanwhile */
      bool pushed;
      status = fm_device_enter_primary(gpu.driver, gpu.device, &pushed); /* which lives as long as the memory */
      if (status == FLASHMLA_OK) status = allocate_locked(gpu, stream);
      fm_device_leave(gpu.driver, pushed);
    }
    pthread_mutex_unlock(&lock);
  }
  if (status == FLASHMLA_OK) *findings = all[gpu.device->id];
  return status;
}

static flashmla_status tell(fm_value value, fm_finding *finding, int32_t device_id) {
  uint64_t told = __atomic_load_n(&finding->told, __ATOMIC_ACQUIRE);
  const uint64_t found = __atomic_load_n(&finding->found, __ATOMIC_ACQUIRE);
  if (found == told || __atomic_load_n(&finding->ready, __ATOMIC_ACQUIRE) != told + 1) return FLASHMLA_OK;
  const fm_finding copy = *finding;
  const uint64_t count = found - told;
  if (!__atomic_compare_exchange_n(&finding->told, &told, found, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
    return FLASHMLA_OK; /* another thread tells it */
  fm_text where = {""};
  fm_append(&where, "a call before this one, on CUDA device %d: ", device_id);
  return fm_fail_finding(value, &copy, count, where.chars);
}

flashmla_status fm_tell_findings(int32_t device_id) {
  device_findings *there = __atomic_load_n(&all, __ATOMIC_ACQUIRE);
  for (int value = 0; there != NULL && value < FM_VALUES; value++)
    FM_TRY(tell((fm_value)value, &there[device_id][value], device_id));
  return FLASHMLA_OK;
}

flashmla_status flashmla_check_report(void) {
  for (int32_t device = 0; device < FM_MAX_DEVICES; device++) FM_TRY(fm_tell_findings(device));
  return FLASHMLA_OK;
}
