/* cuda_findings.c - see cuda_findings.h. */
#include "attention/cuda_findings.h"

#include <pthread.h>
#include <string.h>

_Static_assert(sizeof(fm_finding) == FM_KERNEL_FINDING_BYTES, "a record of dsl_kernels/core/findings.py");
_Static_assert((int)FM_VALUES == FM_KERNEL_CHECKED_VALUES, "its records");

typedef fm_finding device_findings[FM_VALUES];
static device_findings *all;                             /* of every device; NULL until the mode was used */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of who makes it, or reports what is there */

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

static flashmla_status findings_of(fm_gpu gpu, void *stream, fm_finding **findings) {
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

static bool is_ready(const fm_finding *finding) {
  const uint64_t reports = __atomic_load_n(&finding->reports, __ATOMIC_ACQUIRE);
  return __atomic_load_n(&finding->ready, __ATOMIC_ACQUIRE) == reports + 1;
}

/* How many were found since the last report; 0 where another thread has told them. The count is read behind the new
 * number of reports, which a kernel reads behind its counting: what is not in this report is claimed for the next. It
 * may be in both, and then there is nothing left to count for what was claimed. */
static uint64_t take_report_locked(fm_finding *finding, fm_finding *copy) {
  if (!is_ready(finding)) return 0;
  const uint64_t so_far = __atomic_load_n(&finding->found, __ATOMIC_ACQUIRE);
  if (so_far == finding->told) return 0;
  *copy = *finding;
  __atomic_store_n(&finding->reports, finding->reports + 1, __ATOMIC_SEQ_CST); /* before the load, both being so */
  const uint64_t found = __atomic_load_n(&finding->found, __ATOMIC_SEQ_CST), count = found - finding->told;
  finding->told = found;
  return count;
}

static flashmla_status tell(fm_value value, fm_finding *finding, int32_t device_id) {
  fm_finding copy;
  if (!is_ready(finding)) return FLASHMLA_OK;
  pthread_mutex_lock(&lock);
  const uint64_t count = take_report_locked(finding, &copy);
  pthread_mutex_unlock(&lock);
  if (count == 0) return FLASHMLA_OK;
  fm_text where = {""};
  fm_append(&where, "a call before this one, on CUDA device %d: ", device_id);
  return fm_fail_finding(value, &copy, count, where.chars);
}

static flashmla_status tell_findings(int32_t device_id) {
  device_findings *there = __atomic_load_n(&all, __ATOMIC_ACQUIRE);
  for (int value = 0; there != NULL && value < FM_VALUES; value++)
    FM_TRY(tell((fm_value)value, &there[device_id][value], device_id));
  return FLASHMLA_OK;
}

flashmla_status fm_load_checker(fm_gpu gpu, fm_kernel_family family, void *stream, fm_checker *checker) {
  if (!fm_checking()) return FLASHMLA_OK;
  FM_TRY(fm_load(gpu, (fm_need){.family = family}, &checker->kernel));
  return findings_of(gpu, stream, &checker->findings);
}

bool fm_will_check(const fm_checker *checker) { return checker->findings != NULL && fm_checking(); }

flashmla_status fm_launch_checker(fm_gpu gpu, const fm_checker *checker, int64_t blocks, const void *params,
                                  void *stream) {
  FM_TRY(tell_findings(gpu.device->id));
  return fm_launch(gpu, &checker->kernel, (int32_t)fm_min64(gpu.device->processors, blocks), params, stream);
}

flashmla_status flashmla_check_report(void) {
  for (int32_t device = 0; device < FM_MAX_DEVICES; device++) FM_TRY(tell_findings(device));
  return FLASHMLA_OK;
}
