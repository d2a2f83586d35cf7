/* libcuda.c - a CUDA driver that does nothing but keep the rules: what is called, with what, and whether it was legal.
 *
 * Built as libcuda.so.1 with the exports that the test names. The machine is described by STUB_VERSION (12000),
 * STUB_DEVICES (1), STUB_ARCHITECTURE (90), STUB_PROCESSORS (132), STUB_NAME, STUB_L2_BYTES (50 MiB), STUB_CLUSTERS (of
 * two that run at once; half the processors), STUB_CAPTURING (0), and STUB_PAGEABLE (0: memory of the host is pinned).
 * Sources of the rules: CUDA Driver API reference, and its cuda.h for names and numbers. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/kernel_params.h"
#include "log.h"

/* The launcher's copy of the driver's types has the sizes of cuda.h. */
_Static_assert(sizeof(CUlaunchAttribute) == 72, "id, padding, 64 bytes of value");
_Static_assert(sizeof(CUlaunchConfig) == 56, "seven numbers, stream, attributes, count");
_Static_assert(sizeof(CUtensorMap) == 128 && _Alignof(CUtensorMap) == 64, "128 bytes on a 64-byte boundary");

enum { MAX_DEVICES = 8, MAX_KERNELS = 256, MAX_DEPTH = 8, MAX_PARAMS = 192, DEFAULT_SHARED_BYTES = 48 * 1024 };
#define UPLOAD "flashmla_upload_" /* an entry whose work is done: tests of pools look at it */
enum { BIGGEST_SHARED_BYTES = 227 * 1024 /* of a block on sm_90 */, BIGGEST_BOX = 256 };

#include "parameter_sizes.h" /* made by launches.py */

struct CUctx_st {
  int device;
};
struct CUlib_st {
  const unsigned char *image;
};
struct CUkern_st {
  struct CUlib_st library;
  char name[512];
  int shared_bytes[MAX_DEVICES];
};

static struct CUctx_st contexts[MAX_DEVICES];
static struct CUkern_st kernels[MAX_KERNELS];
static int kernel_count, map_count;
static pthread_mutex_t kernels_lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local CUcontext stack[MAX_DEPTH];
static _Thread_local int depth;
/* For the test: how many contexts this thread has pushed. */
int stub_depth(void) { return depth; }

bool has_context(void) { return depth > 0; }
int current_device(void) { return depth ? stack[depth - 1]->device : -1; }

static void list(FILE *log, const char *name, const void *values, int count, int bytes) {
  fprintf(log, ", \"%s\": [", name);
  for (int i = 0; i < count; i++)
    fprintf(log, "%s%llu", i ? ", " : "",
            bytes == 8 ? (unsigned long long)((const uint64_t *)values)[i]
                       : (unsigned long long)((const uint32_t *)values)[i]);
  fprintf(log, "]");
}
static int plain_line(const char *call, int result) { return close_line(open_line(call), call, result); }

int cuInit(unsigned flags) {
  return plain_line("cuInit", flags ? INVALID_VALUE : setting("STUB_DEVICES", 1) ? 0 : NO_DEVICE);
}

int cuDriverGetVersion(int *version) {
  *version = setting("STUB_VERSION", 12000);
  return plain_line("cuDriverGetVersion", 0);
}

int cuGetErrorString(int error, const char **text) {
  static _Thread_local char words[64];
  snprintf(words, sizeof words, "the driver's words for %d", error);
  *text = words;
  return 0;
}

int cuDeviceGetCount(int *count) {
  *count = setting("STUB_DEVICES", 1);
  return plain_line("cuDeviceGetCount", 0);
}

int cuDeviceGet(CUdevice *device, int ordinal) {
  bool exists = ordinal >= 0 && ordinal < setting("STUB_DEVICES", 1);
  if (exists) *device = ordinal;
  return plain_line("cuDeviceGet", exists ? 0 : INVALID_DEVICE);
}

int cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
  (void)device;
  int architecture = setting("STUB_ARCHITECTURE", 90);
  *value = attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT       ? setting("STUB_PROCESSORS", 132)
           : attribute == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE            ? setting("STUB_L2_BYTES", 50 << 20)
           : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? architecture / 10
           : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? architecture % 10
           : attribute == CU_DEVICE_ATTRIBUTE_CLOCK_RATE               ? 1830000 /* kHz */
           : attribute == CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE        ? 2619000
           : attribute == CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH  ? 5120 /* bits */
                                                                       : -1;
  return plain_line("cuDeviceGetAttribute", *value < 0 ? INVALID_VALUE : 0);
}

int cuDeviceGetName(char *name, int size, CUdevice device) {
  const char *text = getenv("STUB_NAME");
  (void)device;
  snprintf(name, (size_t)size, "%s", text ? text : "NVIDIA Stub");
  return plain_line("cuDeviceGetName", 0);
}

int cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  contexts[device].device = device;
  *context = &contexts[device];
  return plain_line("cuDevicePrimaryCtxRetain", 0);
}

int cuCtxGetCurrent(CUcontext *context) {
  *context = depth ? stack[depth - 1] : NULL;
  return plain_line("cuCtxGetCurrent", 0);
}

int cuCtxGetDevice(CUdevice *device) {
  if (depth) *device = stack[depth - 1]->device;
  return plain_line("cuCtxGetDevice", depth ? 0 : INVALID_CONTEXT);
}

int cuCtxPushCurrent_v2(CUcontext context) {
  FILE *log = open_line("cuCtxPushCurrent_v2");
  int result = close_line(log, "cuCtxPushCurrent_v2", context && depth < MAX_DEPTH ? 0 : INVALID_CONTEXT);
  if (result == 0) stack[depth++] = context;
  return result;
}

int cuCtxPopCurrent_v2(CUcontext *context) {
  int result = plain_line("cuCtxPopCurrent_v2", depth ? 0 : INVALID_CONTEXT);
  if (result == 0) *context = stack[--depth];
  return result;
}

int cuStreamIsCapturing(CUstream stream, int *status) {
  FILE *log = open_line("cuStreamIsCapturing");
  fprintf(log, ", \"stream\": %zu", (size_t)stream);
  *status = setting("STUB_CAPTURING", 0);
  return close_line(log, "cuStreamIsCapturing", depth ? 0 : INVALID_CONTEXT);
}

int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
  FILE *log = open_line("cuMemHostAlloc");
  void *made = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  fprintf(log, ", \"bytes\": %zu, \"flags\": %u, \"memory\": %zu", bytes, flags, (size_t)made);
  int result = close_line(log, "cuMemHostAlloc", depth ? 0 : INVALID_CONTEXT);
  if (result == 0)
    *memory = made;
  else
    free(made);
  return result;
}

int cuPointerGetAttribute(void *value, int attribute, CUdeviceptr pointer) {
  const bool good = attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER && pointer && !setting("STUB_PAGEABLE", 0);
  const int result = plain_line("cuPointerGetAttribute", !depth ? INVALID_CONTEXT : good ? 0 : INVALID_VALUE);
  if (result == 0) memcpy(value, &pointer, sizeof pointer);
  return result;
}

int cuLibraryLoadData(CUlibrary *library, const void *image, void *jit_options, void *jit_values, unsigned jit_count,
                      void *options, void *values, unsigned count) {
  (void)jit_options, (void)jit_values, (void)options, (void)values;
  const unsigned char *bytes = image;
  enum { ELF_ABI = 8 };
  bool elf = memcmp(bytes, "\177ELF", 4) == 0;
  int newest = setting("STUB_VERSION", 12000) < 13000 ? 7 : 8; /* ELF ABI versions that the driver knows */
  FILE *log = open_line("cuLibraryLoadData");
  fprintf(log, ", \"image\": %zu, \"elf_abi\": %d", (size_t)image, bytes[ELF_ABI]);
  bool good = elf && bytes[ELF_ABI] <= newest && jit_count == 0 && count == 0;
  int result = close_line(log, "cuLibraryLoadData", good ? 0 : INVALID_IMAGE);
  if (result == 0) {
    *library = malloc(sizeof **library);
    (*library)->image = image;
  }
  return result;
}

int cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name) {
  FILE *log = open_line("cuLibraryGetKernel");
  fprintf(log, ", \"image\": %zu, \"kernel\": \"%s\"", (size_t)library->image, name);
  int result = close_line(log, "cuLibraryGetKernel", kernel_count < MAX_KERNELS ? 0 : NOT_FOUND);
  if (result == 0) {
    pthread_mutex_lock(&kernels_lock);
    *kernel = &kernels[kernel_count++];
    (*kernel)->library = *library;
    snprintf((*kernel)->name, sizeof(*kernel)->name, "%s", name);
    pthread_mutex_unlock(&kernels_lock);
  }
  return result;
}

int cuKernelSetAttribute(int attribute, int value, CUkernel kernel, CUdevice device) {
  bool good = attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES && value <= BIGGEST_SHARED_BYTES;
  FILE *log = open_line("cuKernelSetAttribute");
  fprintf(log, ", \"kernel\": \"%s\", \"of_device\": %d, \"value\": %d", kernel->name, device, value);
  int result = close_line(log, "cuKernelSetAttribute", good ? 0 : INVALID_VALUE);
  if (result == 0) kernel->shared_bytes[device] = value;
  return result;
}

/* Sizes of a kernel's parameters, by the family in its name; they end with a 0. */
static void sizes_of(const char *kernel, size_t sizes[MAX_PARAMS]) {
  memset(sizes, 0, MAX_PARAMS * sizeof *sizes);
  for (size_t i = 0; i < sizeof families / sizeof *families; i++)
    if (strncmp(kernel, families[i].prefix, strlen(families[i].prefix)) == 0)
      memcpy(sizes, families[i].sizes, sizeof families[i].sizes);
}

int cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t *offset, size_t *size) {
  size_t sizes[MAX_PARAMS];
  sizes_of(kernel->name, sizes);
  *offset = 0;
  *size = sizes[index] + (size_t)setting("STUB_PARAMETER_TOO_LARGE", 0);
  FILE *log = open_line("cuKernelGetParamInfo");
  fprintf(log, ", \"kernel\": \"%s\"", kernel->name);
  return close_line(log, "cuKernelGetParamInfo", sizes[index] ? 0 : INVALID_VALUE);
}

int cuOccupancyMaxActiveClusters(int *clusters, CUfunction function, const CUlaunchConfig *config) {
  CUkernel kernel = (CUkernel)function;
  const CUlaunchAttribute *a = config->attrs;
  bool good = config->numAttrs == 1 && a->id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  const unsigned blocks = good ? a->value.clusterDim.x * a->value.clusterDim.y * a->value.clusterDim.z : 0;
  FILE *log = open_line("cuOccupancyMaxActiveClusters");
  fprintf(log, ", \"kernel\": \"%s\", \"cluster\": %u, \"shared_bytes\": %u, \"block\": %u", kernel->name, blocks,
          config->sharedMemBytes, config->blockDimX);
  good = good && blocks && config->gridDimX && config->gridDimX % blocks == 0 && config->blockDimX;
  good = good && depth && (int)config->sharedMemBytes <= kernel->shared_bytes[stack[depth - 1]->device];
  int result = !depth ? INVALID_CONTEXT : good ? 0 : INVALID_VALUE;
  result = close_line(log, "cuOccupancyMaxActiveClusters", result);
  if (result == 0) *clusters = setting("STUB_CLUSTERS", setting("STUB_PROCESSORS", 132) / (int)blocks);
  return result;
}

int cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra) {
  CUkernel kernel = (CUkernel)function;
  const unsigned grid[] = {config->gridDimX, config->gridDimY, config->gridDimZ};
  const unsigned block[] = {config->blockDimX, config->blockDimY, config->blockDimZ};
  size_t sizes[MAX_PARAMS];
  sizes_of(kernel->name, sizes);
  FILE *log = open_line("cuLaunchKernelEx");
  fprintf(log, ", \"kernel\": \"%s\", \"stream\": %zu, \"shared_bytes\": %u", kernel->name, (size_t)config->hStream,
          config->sharedMemBytes);
  list(log, "grid", grid, 3, 4);
  list(log, "block", block, 3, 4);
  fprintf(log, ", \"attributes\": {");
  unsigned cluster = 1;
  for (unsigned i = 0; i < config->numAttrs; i++) {
    const CUlaunchAttribute *a = &config->attrs[i];
    bool is_cluster = a->id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    if (is_cluster) cluster = a->value.clusterDim.x * a->value.clusterDim.y * a->value.clusterDim.z;
    fprintf(log, "%s\"%d\": %d", i ? ", " : "", a->id,
            is_cluster ? (int)cluster : a->value.programmaticStreamSerializationAllowed);
  }
  fprintf(log, "}, \"params\": [");
  for (size_t i = 0; sizes[i]; i++) {
    fprintf(log, "%s\"", i ? ", " : "");
    for (size_t byte = 0; byte < sizes[i]; byte++) fprintf(log, "%02x", ((unsigned char *)parameters[i])[byte]);
    fprintf(log, "\"");
  }
  fprintf(log, "]");
  int result = 0;
  if (!depth)
    result = INVALID_CONTEXT;
  else if (extra || !grid[0] || !grid[1] || !grid[2] || grid[0] % cluster)
    result = INVALID_VALUE;
  else if (block[0] * block[1] * block[2] > 1024 || config->sharedMemBytes > BIGGEST_SHARED_BYTES)
    result = INVALID_VALUE;
  else if (config->sharedMemBytes > DEFAULT_SHARED_BYTES &&
           (int)config->sharedMemBytes > kernel->shared_bytes[stack[depth - 1]->device])
    result = OUT_OF_RESOURCES;
  result = close_line(log, "cuLaunchKernelEx", result);
  if (result == 0 && strncmp(kernel->name, UPLOAD, strlen(UPLOAD)) == 0) enqueue_upload(config->hStream, parameters);
  return result;
}

/* The rules of cuTensorMapEncodeTiled for an untiled, 16-bit, 128-byte swizzled map. */
static bool legal_map(CUtensorMap *map, uint32_t rank, void *address, const uint64_t *extents, const uint64_t *strides,
                      const uint32_t *box, const uint32_t *element_strides) {
  bool good = rank >= 3 && rank <= 5 && (uintptr_t)map % 64 == 0 && (uintptr_t)address % 16 == 0 && address;
  good = good && box[0] * 2 <= 128 && box[0] * 2 % 16 == 0;
  for (uint32_t i = 0; good && i < rank; i++) {
    good = extents[i] >= 1 && extents[i] <= UINT64_C(1) << 32 && box[i] >= 1 && box[i] <= BIGGEST_BOX;
    good = good && element_strides[i] == 1;
    if (i == 0) continue;
    good = good && strides[i - 1] > 0 && strides[i - 1] % 16 == 0 && strides[i - 1] < UINT64_C(1) << 40;
  }
  return good;
}

int cuTensorMapEncodeTiled(CUtensorMap *map, int dtype, uint32_t rank, void *address, const uint64_t *extents,
                           const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides,
                           int interleave, int swizzle, int l2_promotion, int oob_fill) {
  FILE *log = open_line("cuTensorMapEncodeTiled");
  memset(map, 0, sizeof *map);
  map->opaque[0] = (uint64_t)++map_count; /* by which a launch's map is found again */
  map->opaque[1] = (uintptr_t)address;
  fprintf(log, ", \"map\": %d, \"dtype\": %d, \"address\": %zu", map_count, dtype, (size_t)address);
  list(log, "extents", extents, (int)rank, 8);
  list(log, "strides", strides, (int)rank - 1, 8);
  list(log, "box", box, (int)rank, 4);
  fprintf(log, ", \"modes\": [%d, %d, %d, %d]", interleave, swizzle, l2_promotion, oob_fill);
  bool good = legal_map(map, rank, address, extents, strides, box, element_strides) && interleave == 0 && swizzle == 3;
  return close_line(log, "cuTensorMapEncodeTiled", good ? 0 : INVALID_VALUE);
}

int cuTensorMapReplaceAddress(CUtensorMap *map, void *address) {
  FILE *log = open_line("cuTensorMapReplaceAddress");
  fprintf(log, ", \"map\": %zu, \"address\": %zu", (size_t)map->opaque[0], (size_t)address);
  bool good = (uintptr_t)map % 64 == 0 && (uintptr_t)address % 16 == 0 && address && map->opaque[0];
  int result = close_line(log, "cuTensorMapReplaceAddress", good ? 0 : INVALID_VALUE);
  if (result == 0) map->opaque[1] = (uintptr_t)address;
  return result;
}
