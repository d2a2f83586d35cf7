/* driver.h - the CUDA driver, opened when it is first needed. */
#ifndef FLASHMLA_CUDA_DRIVER_H_
#define FLASHMLA_CUDA_DRIVER_H_

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"
#include "cuda/driver_types.h"

/* The driver symbols this library looks up, as X(member, symbol, parameters): all of them are in CUDA 12.0, none
 * allocates device memory; pinned memory of the host is what the checking mode writes to (attention/cuda_findings.h),
 * and the profiler's copies of lengths (observer/cuda_times.c).
 */
#define FM_DRIVER_SYMBOLS(X)                                                                                         \
  X(init, cuInit, (unsigned flags))                                                                                  \
  X(driver_get_version, cuDriverGetVersion, (int *version))                                                          \
  X(get_error_string, cuGetErrorString, (CUresult error, const char **text))                                         \
  X(device_get_count, cuDeviceGetCount, (int *count))                                                                \
  X(device_get, cuDeviceGet, (CUdevice * device, int ordinal))                                                       \
  X(device_get_attribute, cuDeviceGetAttribute, (int *value, int attribute, CUdevice device))                        \
  X(device_get_name, cuDeviceGetName, (char *name, int size, CUdevice device))                                       \
  X(primary_context_retain, cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device))                        \
  X(context_get_current, cuCtxGetCurrent, (CUcontext * context))                                                     \
  X(context_get_device, cuCtxGetDevice, (CUdevice * device))                                                         \
  X(context_push_current, cuCtxPushCurrent_v2, (CUcontext context))                                                  \
  X(context_pop_current, cuCtxPopCurrent_v2, (CUcontext * context))                                                  \
  X(stream_is_capturing, cuStreamIsCapturing, (CUstream stream, int *status))                                        \
  X(mem_host_alloc, cuMemHostAlloc, (void **memory, size_t bytes, unsigned flags))                                   \
  X(pointer_get_attribute, cuPointerGetAttribute, (void *value, int attribute, CUdeviceptr pointer))                 \
  X(stream_create, cuStreamCreate, (CUstream * stream, unsigned flags))                                              \
  X(stream_destroy, cuStreamDestroy_v2, (CUstream stream))                                                           \
  X(stream_wait_event, cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned flags))                          \
  X(event_create, cuEventCreate, (CUevent * event, unsigned flags))                                                  \
  X(event_destroy, cuEventDestroy_v2, (CUevent event))                                                               \
  X(event_record, cuEventRecord, (CUevent event, CUstream stream))                                                   \
  X(event_query, cuEventQuery, (CUevent event))                                                                      \
  X(memcpy_async, cuMemcpyAsync, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                  \
  X(memset_d32_async, cuMemsetD32Async, (CUdeviceptr to, unsigned value, size_t words, CUstream stream))             \
  X(stream_synchronize, cuStreamSynchronize, (CUstream stream))                                                      \
  X(exchange_capture_mode, cuThreadExchangeStreamCaptureMode, (int *mode))                                           \
  X(event_elapsed_time, cuEventElapsedTime, (float *ms, CUevent begin, CUevent end))                                 \
  X(library_load_data, cuLibraryLoadData,                                                                            \
    (CUlibrary * library, const void *image, void *jit_options, void *jit_values, unsigned jit_count, void *options, \
     void *values, unsigned count))                                                                                  \
  X(library_get_kernel, cuLibraryGetKernel, (CUkernel * kernel, CUlibrary library, const char *name))                \
  X(kernel_set_attribute, cuKernelSetAttribute, (int attribute, int value, CUkernel kernel, CUdevice device))        \
  X(occupancy_max_active_clusters, cuOccupancyMaxActiveClusters,                                                     \
    (int *clusters, CUfunction function, const CUlaunchConfig *config))                                              \
  X(launch_kernel_ex, cuLaunchKernelEx,                                                                              \
    (const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra))                            \
  X(tensor_map_encode_tiled, cuTensorMapEncodeTiled,                                                                 \
    (CUtensorMap * map, int dtype, uint32_t rank, void *address, const uint64_t *extents, const uint64_t *strides,   \
     const uint32_t *box, const uint32_t *element_strides, int interleave, int swizzle, int l2_promotion,            \
     int oob_fill))                                                                                                  \
  X(tensor_map_replace_address, cuTensorMapReplaceAddress, (CUtensorMap * map, void *address))
/* Symbols newer than 12.0: NULL where the driver lacks them. */
#define FM_OPTIONAL_DRIVER_SYMBOLS(X)            \
  X(kernel_get_param_info, cuKernelGetParamInfo, \
    (CUkernel kernel, size_t index, size_t *offset, size_t *size)) /* 12.4 */

typedef struct fm_driver {
  int version; /* CUDA version, 1000 * major + 10 * minor */
#define FM_MEMBER(member, symbol, parameters) CUresult(*member) parameters;
  FM_DRIVER_SYMBOLS(FM_MEMBER)
  FM_OPTIONAL_DRIVER_SYMBOLS(FM_MEMBER)
#undef FM_MEMBER
} fm_driver;

/* The opened driver, or NULL with the reason stored by fm_fail (FLASHMLA_ERROR_NO_DRIVER) and put in *status. A failed
 * try is repeated by the next call. */
const fm_driver *fm_driver_open(flashmla_status *status);
/* Status for a failed driver call `what`, with the driver's own words. */
flashmla_status fm_driver_fail(const fm_driver *driver, const char *what, CUresult result);
/* Calls a driver function, whose name the sentence of a failure quotes. */
#define FM_DRIVER_TRY(driver, function, ...)                               \
  do {                                                                     \
    const CUresult result_ = (driver)->function(__VA_ARGS__);              \
    if (result_ != 0) return fm_driver_fail((driver), #function, result_); \
  } while (0)

#endif /* FLASHMLA_CUDA_DRIVER_H_ */
