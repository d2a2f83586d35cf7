/* kernels.c - loads the kernels of the table, each once a process. */
#include "cuda/kernels.h"

#include <pthread.h>

#include "cuda/kernel_params.h"
#include "try.h"

#ifdef FLASHMLA_CPU_ONLY
const fm_kernel fm_kernels[1];
const int32_t fm_kernel_count = 0;
#endif

#define MAX_KERNELS 256
static CUlibrary libraries[MAX_KERNELS];
static CUkernel handles[MAX_KERNELS];
static uint64_t prepared[MAX_KERNELS]; /* bit per device: attributes are set */
_Static_assert(FM_MAX_DEVICES <= 64, "a bit per device");
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const fm_param dense_decode_params[] = FM_DENSE_DECODE_PARAMS;
static const fm_param combine_params[] = FM_COMBINE_PARAMS;
static const fm_param plan_params[] = FM_PLAN_PARAMS;
static const fm_param merge_states_params[] = FM_MERGE_STATES_PARAMS;
static const struct {
  const fm_param *params;
  size_t count;
} expected[] = {
    [FM_DENSE_DECODE] = {dense_decode_params, sizeof dense_decode_params / sizeof(fm_param)},
    [FM_COMBINE] = {combine_params, sizeof combine_params / sizeof(fm_param)},
    [FM_PLAN] = {plan_params, sizeof plan_params / sizeof(fm_param)},
    [FM_MERGE_STATES] = {merge_states_params, sizeof merge_states_params / sizeof(fm_param)},
};

/* The compiled parameter list against the struct the launcher fills; drivers before 12.4 cannot tell. Offsets are not
 * compared: the driver counts them from a base of its own. */
static flashmla_status check_params(const fm_driver *driver, const fm_kernel *kernel, CUkernel handle) {
  if (!driver->kernel_get_param_info) return FLASHMLA_OK;
  for (size_t i = 0; i < expected[kernel->operation].count; i++) {
    size_t offset = 0, size = 0;
    FM_DRIVER_TRY(driver, kernel_get_param_info(handle, i, &offset, &size));
    size_t want = expected[kernel->operation].params[i].size;
    if (size != want)
      return fm_fail(FLASHMLA_ERROR_DRIVER, "%s: parameter %zu is %zu bytes in the kernel, %zu in the launcher",
                     kernel->name, i, size, want);
  }
  return FLASHMLA_OK;
}

/* What a failure leaves loaded is used when the load is tried again. */
static flashmla_status load_locked(const fm_driver *driver, const fm_kernel *kernel, size_t row) {
  if (!libraries[row]) {
    CUlibrary library;
    FM_DRIVER_TRY(driver, library_load_data(&library, kernel->image, NULL, NULL, 0, NULL, NULL, 0));
    libraries[row] = library;
  }
  CUkernel loaded;
  FM_DRIVER_TRY(driver, library_get_kernel(&loaded, libraries[row], kernel->entry));
  FM_TRY(check_params(driver, kernel, loaded));
  handles[row] = loaded;
  return FLASHMLA_OK;
}

static flashmla_status prepare_locked(const fm_driver *driver, const fm_kernel *kernel, size_t row,
                                      const fm_device *device) {
  const uint64_t bit = UINT64_C(1) << device->id;
  if (!handles[row]) FM_TRY(load_locked(driver, kernel, row));
  if (prepared[row] & bit) return FLASHMLA_OK;
  FM_DRIVER_TRY(driver, kernel_set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel->shared_bytes,
                                             handles[row], device->handle));
  prepared[row] |= bit;
  return FLASHMLA_OK;
}

flashmla_status fm_kernel_load(const fm_driver *driver, const fm_kernel *kernel, const fm_device *device,
                               CUkernel *handle) {
  const size_t row = (size_t)(kernel - fm_kernels);
  if (row >= MAX_KERNELS)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "%s is row %zu of the kernel table; this library loads the first %d",
                   kernel->name, row, MAX_KERNELS);
  pthread_mutex_lock(&lock);
  const flashmla_status status = prepare_locked(driver, kernel, row, device);
  *handle = handles[row];
  pthread_mutex_unlock(&lock);
  return status;
}

int32_t fm_cuda_kernel_count(void) { return fm_kernel_count; }

void fm_cuda_kernel_at(int32_t index, flashmla_kernel_info *info) {
  static const char *const operations[] = {[FM_DENSE_DECODE] = "dense_decode",
                                           [FM_COMBINE] = "combine",
                                           [FM_PLAN] = "plan",
                                           [FM_MERGE_STATES] = "merge_states"};
  static const char *const dtypes[] = {[FM_BF16] = "bfloat16", [FM_FP16] = "float16", [FM_FP32] = "float32"};
  const fm_kernel *k = &fm_kernels[index];
  *info = (flashmla_kernel_info){.name = k->name,
                                 .operation = operations[k->operation],
                                 .dtype = k->dtype == FM_ANY_DTYPE ? "any" : dtypes[k->dtype],
                                 .target = "sm_90a",
                                 .min_driver = k->min_driver,
                                 .registers = k->registers,
                                 .shared_bytes = k->shared_bytes,
                                 .threads = k->threads};
}
