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

flashmla_status fm_driver_fail(const fm_driver *driver, const char *what, CUresult result) {
  const char *text = NULL;
  driver->get_error_string(result, &text);
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
