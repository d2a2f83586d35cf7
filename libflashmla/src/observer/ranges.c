/* ranges.c - NVTX ranges, FLASHMLA_NVTX=1: the launches of each call, named by operation and shape, for the profiler
 * that the process runs under. Nothing is linked: a tool is found as NVTX finds it. */
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "core/environment.h"
#include "core/log.h"
#include "observer/facts.h"
#include "observer/nvtx.h"
#include "observer/observer.h"

enum { NAME_BYTES = 256 /* longer names are cut off */, COLOR = 0xff1f6fb4 };

static _Atomic(const char *) path_of_tool;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static fm_nvtx_function functions[FM_NVTX_MODULES][FM_NVTX_MOST_PLACES];
static fm_nvtx_function
    *tables[FM_NVTX_MODULES][FM_NVTX_MOST_PLACES + 1]; /* of where functions lie, with a NULL behind */
static fm_nvtx_range_push push;
static fm_nvtx_range_pop pop;
static void *domain;
static _Thread_local bool in_tool; /* which may call this library: such calls have no range */

static void take_nvtx(const char *value, fm_text *problem) {
  const bool on = value != NULL && strcmp(value, "1") == 0;
  if (value != NULL && !on && strcmp(value, "0") != 0) fm_append(problem, "; it must be 0 or 1");
  fm_observe(FM_RANGING, on);
}

static void take_path(const char *value, fm_text *problem) {
  (void)problem;
  atomic_store(&path_of_tool, value != NULL ? fm_keep_text(value) : NULL);
}

static const fm_variable nvtx_variable = {"FLASHMLA_NVTX", take_nvtx};
FM_VARIABLE(nvtx_variable);
static const fm_variable path_variable = {"NVTX_INJECTION64_PATH", take_path};
FM_VARIABLE(path_variable);

static int functions_of(int32_t module, fm_nvtx_function ***table, unsigned int *size) {
  static const uint8_t places[FM_NVTX_MODULES] = {
      [FM_NVTX_CORE] = FM_NVTX_CORE_PLACES,     [FM_NVTX_CUDA] = FM_NVTX_CUDA_PLACES,
      [FM_NVTX_OPENCL] = FM_NVTX_OPENCL_PLACES, [FM_NVTX_CUDART] = FM_NVTX_CUDART_PLACES,
      [FM_NVTX_CORE2] = FM_NVTX_CORE2_PLACES,   [FM_NVTX_SYNC] = FM_NVTX_SYNC_PLACES};
  if (module <= 0 || module >= FM_NVTX_MODULES) return 0;
  for (uint8_t place = 1; place < places[module]; ++place) tables[module][place] = &functions[module][place];
  if (size != NULL) *size = places[module];
  if (table != NULL) *table = tables[module];
  return 1;
}

static void ignore_version(uint32_t version) { (void)version; }

static const void *table_of(uint32_t number) {
  static const fm_nvtx_callbacks callbacks = {sizeof callbacks, functions_of};
  static const fm_nvtx_version_info version = {sizeof version, FM_NVTX_VERSION, 0, ignore_version};
  return number == FM_NVTX_CALLBACKS ? (const void *)&callbacks : number == FM_NVTX_VERSION_INFO ? &version : NULL;
}

/* NULL where the tool is there, else what is wrong. */
static const char *start_tool(const char *path) {
  void *library = dlopen(path, RTLD_LAZY);
  if (library == NULL) return "the tool cannot be loaded";
  fm_nvtx_initialize initialize = (fm_nvtx_initialize)dlsym(library, "InitializeInjectionNvtx2");
  if (initialize == NULL) return "it is no tool of NVTX 3";
  if (initialize(table_of) == 0) return "the tool does not start"; /* it stays loaded: it may have threads */
  fm_nvtx_function *core2 = functions[FM_NVTX_CORE2];
  const fm_nvtx_domain_create create = (fm_nvtx_domain_create)core2[FM_NVTX_DOMAIN_CREATE];
  if (core2[FM_NVTX_DOMAIN_RANGE_PUSH] == NULL || core2[FM_NVTX_DOMAIN_RANGE_POP] == NULL)
    return "the tool does not want ranges";
  if (create != NULL) domain = create("flashmla");
  push = (fm_nvtx_range_push)core2[FM_NVTX_DOMAIN_RANGE_PUSH];
  pop = (fm_nvtx_range_pop)core2[FM_NVTX_DOMAIN_RANGE_POP];
  return NULL;
}

/* In the first call, not where the library is loaded: a tool may call into CUDA. */
static void find_tool(void) {
  const char *path = atomic_load(&path_of_tool);
  if (path == NULL) return;
  const char *problem = start_tool(path);
  if (problem != NULL && fm_logs()) fm_log_once("no NVTX ranges: %s (NVTX_INJECTION64_PATH is \"%s\")", problem, path);
}

void fm_begin_range(fm_observation *seen, const fm_call *call) {
  if (in_tool) return;
  in_tool = true;
  pthread_once(&once, find_tool);
  in_tool = false;
  if (pop == NULL) {
    fm_observe(FM_RANGING, false);
    return;
  }
  char name[NAME_BYTES];
  fm_name_call(call, name, sizeof name);
  const fm_nvtx_event event = {.version = FM_NVTX_VERSION,
                               .size = sizeof event,
                               .color_type = FM_NVTX_COLOR_ARGB,
                               .color = COLOR,
                               .message_type = FM_NVTX_MESSAGE_ASCII,
                               .message = name};
  in_tool = true;
  push(domain, &event);
  in_tool = false;
  seen->ranged = true;
}

void fm_end_range(fm_observation *seen) {
  if (!seen->ranged) return;
  in_tool = true;
  pop(domain);
  in_tool = false;
  seen->ranged = false;
}
