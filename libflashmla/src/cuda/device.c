/* device.c - see device.h. */
#include "cuda/device.h"

#include <pthread.h>

static fm_device devices[FM_MAX_DEVICES];
static CUcontext primaries[FM_MAX_DEVICES]; /* NULL until it was needed */
static bool known[FM_MAX_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static flashmla_status read_locked(const fm_driver *driver, const char *argument, int32_t id) {
  int count = 0;
  FM_DRIVER_TRY(driver, device_get_count, &count);
  const int limit = count < FM_MAX_DEVICES ? count : FM_MAX_DEVICES;
  if (id < 0 || id >= limit)
    return fm_fail(FLASHMLA_ERROR_DEVICE, "%s is %d, the driver has %d CUDA devices; it must be in [0, %d)", argument,
                   id, count, limit);
  fm_device device = {.id = id};
  FM_DRIVER_TRY(driver, device_get, &device.handle, id);
  int processors = 0, l2_bytes = 0, major = 0, minor = 0;
  FM_DRIVER_TRY(driver, device_get_attribute, &processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device.handle);
  FM_DRIVER_TRY(driver, device_get_attribute, &l2_bytes, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, device.handle);
  FM_DRIVER_TRY(driver, device_get_attribute, &major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device.handle);
  FM_DRIVER_TRY(driver, device_get_attribute, &minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device.handle);
  device.processors = processors;
  device.l2_bytes = l2_bytes;
  device.arch = 10 * major + minor;
  devices[id] = device;
  __atomic_store_n(&known[id], true, __ATOMIC_RELEASE);
  return FLASHMLA_OK;
}

flashmla_status fm_device_get(const fm_driver *driver, const char *argument, int32_t id, const fm_device **device) {
  flashmla_status status = FLASHMLA_OK;
  const bool in_table = id >= 0 && id < FM_MAX_DEVICES;
  if (!in_table || !__atomic_load_n(&known[id], __ATOMIC_ACQUIRE)) {
    pthread_mutex_lock(&lock);
    if (!in_table || !known[id]) status = read_locked(driver, argument, id); /* not by another thread meanwhile */
    pthread_mutex_unlock(&lock);
  }
  if (status == FLASHMLA_OK) *device = &devices[id];
  return status;
}

/* The primary context is retained once and kept: frameworks use it too, and releasing it at exit would race with
 * theirs. */
static flashmla_status primary_context(const fm_driver *driver, const fm_device *device, CUcontext *context) {
  flashmla_status status = FLASHMLA_OK;
  pthread_mutex_lock(&lock);
  CUcontext *primary = &primaries[device->id];
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
  FM_DRIVER_TRY(driver, context_get_current, &current);
  if (current) {
    CUdevice handle = -1;
    FM_DRIVER_TRY(driver, context_get_device, &handle);
    if (handle == device->handle) return FLASHMLA_OK;
  }
  return fm_device_enter_primary(driver, device, pushed);
}

flashmla_status fm_device_enter_primary(const fm_driver *driver, const fm_device *device, bool *pushed) {
  *pushed = false;
  CUcontext context = NULL;
  FM_TRY(primary_context(driver, device, &context));
  FM_DRIVER_TRY(driver, context_push_current, context);
  *pushed = true;
  return FLASHMLA_OK;
}

void fm_device_leave(const fm_driver *driver, bool pushed) {
  CUcontext context;
  if (pushed) driver->context_pop_current(&context);
}

flashmla_status flashmla_stream_synchronize(int32_t device_id, void *stream) {
  flashmla_status status;
  const fm_driver *driver = fm_driver_open(&status);
  if (!driver) return status;
  const fm_device *device;
  FM_TRY(fm_device_get(driver, "device_id", device_id, &device));
  bool pushed;
  FM_TRY(fm_device_enter(driver, device, &pushed));
  CUresult result = driver->stream_synchronize((CUstream)stream);
  fm_device_leave(driver, pushed);
  return result == 0 ? FLASHMLA_OK : fm_driver_fail(driver, "stream_synchronize", result);
}
