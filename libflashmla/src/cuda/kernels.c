/* kernels.c - loads the kernels of the table, each once a process, and tells about them. */
#include "cuda/kernels.h"

#include <pthread.h>

#include "core/arith.h"
#include "observer/loads.h"

#ifdef FLASHMLA_CPU_ONLY
const fm_kernel fm_kernels[1];
const int32_t fm_kernel_count = 0;
const char fm_kernels_digest[] = "none";
#endif

static CUlibrary libraries[FM_MOST_KERNELS];
static CUkernel handles[FM_MOST_KERNELS];
static int16_t clusters_at_once[FM_MOST_KERNELS][FM_MAX_DEVICES];
static uint64_t prepared[FM_MOST_KERNELS]; /* bit per device: handle, attributes and clusters are there */
_Static_assert(FM_MAX_DEVICES <= 64, "a bit per device");
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The compiled parameter list against the struct the launcher fills; drivers before 12.4 cannot tell. Offsets are not
 * compared: the driver counts them from a base of its own. */
static flashmla_status check_params(const fm_driver *driver, const fm_kernel *kernel, CUkernel handle) {
  if (!driver->kernel_get_param_info) return FLASHMLA_OK;
  for (int32_t i = 0; i < kernel->num_params; i++) {
    size_t offset = 0, size = 0;
    FM_DRIVER_TRY(driver, kernel_get_param_info, handle, (size_t)i, &offset, &size);
    const size_t want = kernel->params[i].size;
    if (size != want)
      return fm_fail(FLASHMLA_ERROR_DRIVER, "%s: parameter %d is %zu bytes in the kernel, %zu in the launcher",
                     kernel->name, i, size, want);
  }
  return FLASHMLA_OK;
}

/* What a failure leaves loaded is used when the load is tried again. */
static flashmla_status load_locked(const fm_driver *driver, const fm_kernel *kernel, size_t row) {
  if (!libraries[row]) {
    fm_note_load();
    CUlibrary library;
    FM_DRIVER_TRY(driver, library_load_data, &library, kernel->image, NULL, NULL, 0, NULL, NULL, 0);
    libraries[row] = library;
  }
  CUkernel loaded;
  FM_DRIVER_TRY(driver, library_get_kernel, &loaded, libraries[row], kernel->entry);
  FM_TRY(check_params(driver, kernel, loaded));
  handles[row] = loaded;
  return FLASHMLA_OK;
}

static bool is_prepared(size_t row, const fm_device *device) {
  return (__atomic_load_n(&prepared[row], __ATOMIC_ACQUIRE) >> device->id & 1) != 0;
}

/* In a context of the device. Processors of one cluster must be neighbours, and a device, or the slice of it that is
 * used, may have groups of them that leave some over: the driver knows. Where it does not say, none is left over. */
static flashmla_status count_clusters(const fm_driver *driver, const fm_kernel *kernel, size_t row,
                                      const fm_device *device) {
  const unsigned blocks = (unsigned)kernel->cluster;
  CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                                 .value.clusterDim = {.x = blocks, .y = 1, .z = 1}};
  const CUlaunchConfig config = {.gridDimX = blocks,
                                 .gridDimY = 1,
                                 .gridDimZ = 1,
                                 .blockDimX = (unsigned)kernel->threads,
                                 .blockDimY = 1,
                                 .blockDimZ = 1,
                                 .sharedMemBytes = (unsigned)kernel->shared_bytes,
                                 .attrs = &attribute,
                                 .numAttrs = 1};
  const int32_t most = device->processors / kernel->cluster;
  int found = most;
  if (kernel->cluster > 1) {
    const CUresult result = driver->occupancy_max_active_clusters(&found, (CUfunction)handles[row], &config);
    if (result == CUDA_ERROR_INVALID_HANDLE || result == CUDA_ERROR_NOT_SUPPORTED)
      found = most; /* as drivers that want another kind of handle answer */
    else if (result != 0)
      return fm_driver_fail(driver, "occupancy_max_active_clusters", result);
  }
  clusters_at_once[row][device->id] = (int16_t)fm_clamp64(found, 0, fm_min32(most, INT16_MAX));
  return FLASHMLA_OK;
}

/* In a context of the device. */
static flashmla_status prepare_locked(const fm_driver *driver, const fm_kernel *kernel, size_t row,
                                      const fm_device *device) {
  if (!handles[row]) FM_TRY(load_locked(driver, kernel, row));
  FM_DRIVER_TRY(driver, kernel_set_attribute, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel->shared_bytes,
                handles[row], device->handle);
  FM_TRY(count_clusters(driver, kernel, row, device));
  __atomic_fetch_or(&prepared[row], UINT64_C(1) << device->id, __ATOMIC_RELEASE);
  return FLASHMLA_OK;
}

static flashmla_status prepare(const fm_driver *driver, const fm_kernel *kernel, size_t row, const fm_device *device) {
  pthread_mutex_lock(&lock);
  flashmla_status status = FLASHMLA_OK;
  bool pushed = false;
  if (!is_prepared(row, device)) { /* by another thread meanwhile */
    status = fm_device_enter(driver, device, &pushed);
    if (status == FLASHMLA_OK) status = prepare_locked(driver, kernel, row, device);
    fm_device_leave(driver, pushed);
  }
  pthread_mutex_unlock(&lock);
  return status;
}

flashmla_status fm_kernel_load(const fm_driver *driver, const fm_kernel *kernel, const fm_device *device,
                               CUkernel *handle, int32_t *clusters) {
  const size_t row = (size_t)(kernel - fm_kernels);
  if (!is_prepared(row, device)) FM_TRY(prepare(driver, kernel, row, device));
  *handle = handles[row];
  *clusters = clusters_at_once[row][device->id];
  return FLASHMLA_OK;
}

const char *fm_cuda_kernels_digest(void) { return fm_kernels_digest; }

int32_t fm_cuda_kernel_count(void) { return fm_kernel_count; }

/* The dtype that tells kernels of a family apart. */
static int32_t main_element(fm_elements elements) {
  return elements.q != FM_ANY_DTYPE ? elements.q : elements.cache != FM_ANY_DTYPE ? elements.cache : elements.out;
}

void fm_cuda_kernel_at(int32_t index, flashmla_kernel_info *info) {
  const fm_kernel *k = &fm_kernels[index];
  *info = (flashmla_kernel_info){.name = k->name,
                                 .operation = fm_kernel_family_name(k->family),
                                 .dtype = fm_dtype_name(main_element(k->elements)),
                                 .target = k->target,
                                 .min_driver = k->min_driver,
                                 .registers = k->registers,
                                 .shared_bytes = k->shared_bytes,
                                 .threads = k->threads};
}
