/* device.c - devices and their contexts. */
#include "cuda/driver.h"

#include <pthread.h>

#include "try.h"

static fm_device devices[FM_MAX_DEVICES];
static bool known[FM_MAX_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static flashmla_status read_locked(const fm_driver *driver, const char *argument, int32_t id) {
  int count = 0;
  FM_DRIVER_TRY(driver, device_get_count(&count));
  const int limit = count < FM_MAX_DEVICES ? count : FM_MAX_DEVICES;
  if (id < 0 || id >= limit)
    return fm_fail(FLASHMLA_ERROR_DEVICE, "%s is %d, the driver has %d CUDA devices; it must be in [0, %d)", argument,
                   id, count, limit);
  fm_device device = {.id = id};
  FM_DRIVER_TRY(driver, device_get(&device.handle, id));
  int processors = 0, major = 0, minor = 0;
  FM_DRIVER_TRY(driver, device_get_attribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device.handle));
  FM_DRIVER_TRY(driver, device_get_attribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device.handle));
  FM_DRIVER_TRY(driver, device_get_attribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device.handle));
  device.processors = processors;
  device.architecture = 10 * major + minor;
  devices[id] = device;
  known[id] = true;
  return FLASHMLA_OK;
}

flashmla_status fm_device_get(const fm_driver *driver, const char *argument, int32_t id, fm_device *device) {
  pthread_mutex_lock(&lock);
  const bool is_known = id >= 0 && id < FM_MAX_DEVICES && known[id];
  const flashmla_status status = is_known ? FLASHMLA_OK : read_locked(driver, argument, id);
  if (status == FLASHMLA_OK) *device = devices[id];
  pthread_mutex_unlock(&lock);
  return status;
}

/* The primary context is retained once and kept: frameworks use it too, and releasing it at exit would race with
 * theirs. */
static flashmla_status primary_context(const fm_driver *driver, const fm_device *device, CUcontext *context) {
  flashmla_status status = FLASHMLA_OK;
  pthread_mutex_lock(&lock);
  CUcontext *primary = &devices[device->id].primary;
  if (!*primary) {
    CUresult result = driver->primary_context_retain(primary, device->handle);
    if (result != 0) {
      *primary = NULL;
      status = fm_driver_fail(driver, "primary_context_retain", result);
    }
  }
  *context = *primary;
  pthread_mutex_unlock(&lock);
  return status;
}

flashmla_status fm_device_enter(const fm_driver *driver, const fm_device *device, bool *pushed) {
  *pushed = false;
  CUcontext current = NULL;
  FM_DRIVER_TRY(driver, context_get_current(&current));
  if (current) {
    CUdevice handle = -1;
    FM_DRIVER_TRY(driver, context_get_device(&handle));
    if (handle == device->handle) return FLASHMLA_OK;
  }
  CUcontext context = NULL;
  FM_TRY(primary_context(driver, device, &context));
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
  fm_device device;
  FM_TRY(fm_device_get(driver, "device_id", device_id, &device));
  bool pushed;
  FM_TRY(fm_device_enter(driver, &device, &pushed));
  CUresult result = driver->stream_synchronize((CUstream)stream);
  fm_device_leave(driver, pushed);
  return result == 0 ? FLASHMLA_OK : fm_driver_fail(driver, "stream_synchronize", result);
}
