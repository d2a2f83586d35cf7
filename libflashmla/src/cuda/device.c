/* device.c - devices and their contexts. */
#include "cuda/driver.h"

#include <pthread.h>

static fm_device devices[FM_MAX_DEVICES];
static bool known[FM_MAX_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static flashmla_status read_locked(const fm_driver *driver, int32_t device_id) {
  CUresult result = driver->device_get(&devices[device_id].handle, device_id);
  if (result != 0)
    return fm_fail(FLASHMLA_ERROR_DRIVER, "there is no CUDA device %d (driver error %d)", device_id, result);
  CUdevice handle = devices[device_id].handle;
  int processors = 0, major = 0, minor = 0;
  FM_DRIVER_TRY(driver, device_get_attribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, handle));
  FM_DRIVER_TRY(driver, device_get_attribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, handle));
  FM_DRIVER_TRY(driver, device_get_attribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, handle));
  devices[device_id].processors = processors;
  devices[device_id].architecture = 10 * major + minor;
  known[device_id] = true;
  return FLASHMLA_OK;
}

flashmla_status fm_device_get(const fm_driver *driver, int32_t device_id, fm_device *device) {
  if (device_id < 0 || device_id >= FM_MAX_DEVICES)
    return fm_fail(FLASHMLA_ERROR_DEVICE, "device_id is %d; it must be in [0, %d)", device_id, FM_MAX_DEVICES);
  pthread_mutex_lock(&lock);
  flashmla_status status = known[device_id] ? FLASHMLA_OK : read_locked(driver, device_id);
  *device = devices[device_id];
  pthread_mutex_unlock(&lock);
  return status;
}

/* The primary context is retained once and kept: frameworks use it too, and releasing it at exit would race with
 * theirs. */
static flashmla_status primary_context(const fm_driver *driver, int32_t device_id, CUcontext *context) {
  flashmla_status status = FLASHMLA_OK;
  pthread_mutex_lock(&lock);
  if (!devices[device_id].primary) {
    CUresult result = driver->primary_context_retain(&devices[device_id].primary, devices[device_id].handle);
    if (result != 0) status = fm_driver_fail(driver, "primary_context_retain", result);
  }
  *context = devices[device_id].primary;
  pthread_mutex_unlock(&lock);
  return status;
}

flashmla_status fm_device_enter(const fm_driver *driver, int32_t device_id, bool *pushed) {
  *pushed = false;
  fm_device device;
  flashmla_status status = fm_device_get(driver, device_id, &device);
  if (status != FLASHMLA_OK) return status;
  CUcontext current = NULL;
  FM_DRIVER_TRY(driver, context_get_current(&current));
  if (current) {
    CUdevice handle = -1;
    FM_DRIVER_TRY(driver, context_get_device(&handle));
    if (handle == device.handle) return FLASHMLA_OK;
  }
  CUcontext context = NULL;
  status = primary_context(driver, device_id, &context);
  if (status != FLASHMLA_OK) return status;
  FM_DRIVER_TRY(driver, context_push_current(context));
  *pushed = true;
  return FLASHMLA_OK;
}

void fm_device_leave(const fm_driver *driver, bool pushed) {
  CUcontext context;
  if (pushed) driver->context_pop_current(&context);
}

flashmla_status fm_cuda_stream_synchronize(int32_t device_id, void *stream) {
  flashmla_status status;
  const fm_driver *driver = fm_driver_open(&status);
  if (!driver) return status;
  bool pushed;
  status = fm_device_enter(driver, device_id, &pushed);
  if (status != FLASHMLA_OK) return status;
  CUresult result = driver->stream_synchronize((CUstream)stream);
  fm_device_leave(driver, pushed);
  return result == 0 ? FLASHMLA_OK : fm_driver_fail(driver, "stream_synchronize", result);
}
