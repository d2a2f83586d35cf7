/* nvtx.h - what the binary interface of NVTX 3 is, as far as ranges go: an NVTX tool is a shared library whose path is
 * in NVTX_INJECTION64_PATH. It gets a function that hands out tables; in those of a module it puts its own functions,
 * in the places of the calls that it wants. Facts of NVIDIA's nvToolsExt.h and nvtxTypes.h, which a test compares. */
#ifndef FLASHMLA_OBSERVER_NVTX_H_
#define FLASHMLA_OBSERVER_NVTX_H_

#include <stddef.h>
#include <stdint.h>

enum { FM_NVTX_VERSION = 3, FM_NVTX_COLOR_ARGB = 1, FM_NVTX_MESSAGE_ASCII = 1 };

/* nvtxEventAttributes_t */
typedef struct fm_nvtx_event {
  uint16_t version, size;
  uint32_t category;
  int32_t color_type;
  uint32_t color;
  int32_t payload_type, reserved;
  uint64_t payload;
  int32_t message_type;
  const char *message;
} fm_nvtx_event;

typedef void (*fm_nvtx_function)(void); /* to be cast to what it is */
typedef void *(*fm_nvtx_domain_create)(const char *name);
typedef int (*fm_nvtx_range_push)(void *domain, const fm_nvtx_event *event);
typedef int (*fm_nvtx_range_pop)(void *domain);

/* Modules, and how many places the table of each has; that of place 0 is none. */
enum {
  FM_NVTX_CORE = 1,
  FM_NVTX_CUDA,
  FM_NVTX_OPENCL,
  FM_NVTX_CUDART,
  FM_NVTX_CORE2,
  FM_NVTX_SYNC,
  FM_NVTX_MODULES,
  FM_NVTX_CORE_PLACES = 16,
  FM_NVTX_CUDA_PLACES = 9,
  FM_NVTX_OPENCL_PLACES = 15,
  FM_NVTX_CUDART_PLACES = 7,
  FM_NVTX_CORE2_PLACES = 16,
  FM_NVTX_SYNC_PLACES = 7,
  FM_NVTX_MOST_PLACES = 16
};
/* Places in the table of FM_NVTX_CORE2. */
enum { FM_NVTX_DOMAIN_RANGE_PUSH = 4, FM_NVTX_DOMAIN_RANGE_POP = 5, FM_NVTX_DOMAIN_CREATE = 12 };

/* What a tool asks for by number. */
enum { FM_NVTX_CALLBACKS = 1, FM_NVTX_VERSION_INFO = 3 };
typedef struct fm_nvtx_callbacks {
  size_t struct_size;
  int (*functions_of)(int32_t module, fm_nvtx_function ***table, unsigned int *size);
} fm_nvtx_callbacks;
typedef struct fm_nvtx_version_info {
  size_t struct_size;
  uint32_t version, reserved;
  void (*set_version_of_tool)(uint32_t version);
} fm_nvtx_version_info;

/* InitializeInjectionNvtx2; returns 0 where the tool is not there. */
typedef const void *(*fm_nvtx_tables)(uint32_t number);
typedef int (*fm_nvtx_initialize)(fm_nvtx_tables tables);

#endif /* FLASHMLA_OBSERVER_NVTX_H_ */
