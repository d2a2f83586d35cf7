/* driver.c - opens libcuda.so.1 on first use and resolves the table of driver.h. */
#include "cuda/driver.h"

#include <dlfcn.h>
#include <pthread.h>

static fm_driver table;
static bool ready;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const struct symbol {
  const char *name;
  size_t offset;
  bool optional;
} symbols[] = {
#define FM_REQUIRED(member, symbol, parameters) {#symbol, offsetof(fm_driver, member), false},
#define FM_OPTIONAL(member, symbol, parameters) {#symbol, offsetof(fm_driver, member), true},
    FM_DRIVER_SYMBOLS(FM_REQUIRED) FM_OPTIONAL_DRIVER_SYMBOLS(FM_OPTIONAL)};

static flashmla_status open_locked(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return fm_fail(FLASHMLA_ERROR_NO_DRIVER, "no CUDA driver: %s", dlerror());
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *address = dlsym(library, symbols[i].name);
    if (!address && !symbols[i].optional) {
      dlclose(library);
      return fm_fail(FLASHMLA_ERROR_NO_DRIVER, "the CUDA driver lacks %s; version 12.0 or newer is needed",
                     symbols[i].name);
    }
    *(void **)((char *)&table + symbols[i].offset) = address;
  }
  CUresult result = table.init(0);
  if (result != 0) {
    const char *text = NULL;
    table.get_error_string(result, &text);
    flashmla_status status = fm_fail(FLASHMLA_ERROR_NO_DRIVER, "the CUDA driver does not start: %s (%d)",
                                     text ? text : "unknown error", result);
    dlclose(library);
    return status;
  }
  FM_DRIVER_TRY(&table, driver_get_version, &table.version); /* it has started: it stays open */
  __atomic_store_n(&ready, true, __ATOMIC_RELEASE);
  return FLASHMLA_OK;
}

const fm_driver *fm_driver_open(flashmla_status *status) {
  *status = FLASHMLA_OK;
  if (__atomic_load_n(&ready, __ATOMIC_ACQUIRE)) return &table;
  pthread_mutex_lock(&lock);
  if (!ready) *status = open_locked();
  pthread_mutex_unlock(&lock);
  return *status == FLASHMLA_OK ? &table : NULL;
}

/* Errors that no call of the process outlives (CUDA Driver API reference, CUresult: "the process must be terminated and
 * relaunched"). */
static bool ends_context(CUresult result) {
  static const CUresult all[] = {214 /* ECC_UNCORRECTABLE */,
                                 220 /* NVLINK_UNCORRECTABLE */,
                                 226 /* CONTAINED */,
                                 700 /* ILLEGAL_ADDRESS */,
                                 702 /* LAUNCH_TIMEOUT */,
                                 709 /* CONTEXT_IS_DESTROYED */,
                                 710 /* ASSERT */,
                                 714 /* HARDWARE_STACK_ERROR */,
                                 715 /* ILLEGAL_INSTRUCTION */,
                                 716 /* MISALIGNED_ADDRESS */,
                                 717 /* INVALID_ADDRESS_SPACE */,
                                 718 /* INVALID_PC */,
                                 719 /* LAUNCH_FAILED */,
                                 721 /* TENSOR_MEMORY_LEAK */};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; ++i)
    if (all[i] == result) return true;
  return false;
}

flashmla_status fm_driver_fail(const fm_driver *driver, const char *what, CUresult result) {
  const char *text = NULL;
  driver->get_error_string(result, &text);
  if (ends_context(result))
    return fm_fail(
        FLASHMLA_ERROR_CONTEXT_LOST,
        "CUDA driver: %s: %s (%d): the CUDA context is lost: what lies in the device's memory is gone, every "
        "later call on the device fails, and the process has to be started again",
        what, text ? text : "unknown error", result);
  return fm_fail(FLASHMLA_ERROR_DRIVER, "CUDA driver: %s: %s (%d)", what, text ? text : "unknown error", result);
}

flashmla_status flashmla_driver_version(int32_t *version) {
  if (version == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "version is NULL; the result goes there");
  flashmla_status status;
  const fm_driver *driver = fm_driver_open(&status);
  if (!driver) return status;
  *version = driver->version;
  return FLASHMLA_OK;
}
