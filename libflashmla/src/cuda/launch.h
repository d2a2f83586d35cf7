/* launch.h - a device of this library's kernels, and launches on it. */
#ifndef FLASHMLA_CUDA_LAUNCH_H_
#define FLASHMLA_CUDA_LAUNCH_H_

#include "cuda/kernels.h"

/* A device that exists and that this library has kernels for. */
typedef struct fm_gpu {
  const fm_driver *driver;
  const fm_device *device;
} fm_gpu;

/* A kernel that is loaded on a device. */
typedef struct fm_loaded {
  const fm_kernel *kernel;
  CUkernel handle;
  int32_t clusters; /* as fm_kernel_load says */
} fm_loaded;

/* `argument`: whose value `device_id` is. */
flashmla_status fm_gpu_open(const char *argument, int32_t device_id, fm_gpu *gpu);
/* Selects and loads the kernel for a need. */
flashmla_status fm_load(fm_gpu gpu, fm_need need, fm_loaded *loaded);
/* `params`: the launcher's struct of the kernel's family. A context of the device must be current. */
flashmla_status fm_launch(fm_gpu gpu, const fm_loaded *loaded, int32_t grid, const void *params, void *stream);
/* Runs `launches` with a context of the device current. */
typedef flashmla_status fm_launches(const void *state);
flashmla_status fm_in_context(fm_gpu gpu, fm_launches *launches, const void *state);
/* The launch of a call that has no other: makes a context current around it, and remembers the kernel. */
flashmla_status fm_launch_alone(fm_gpu gpu, const fm_loaded *loaded, int32_t grid, const void *params, void *stream);

enum { FM_SWIZZLE_BYTES = 128 /* of a row of a box: fm_encode asks for this swizzle */ };

/* A tensor as TMA sees it: extents and strides from the innermost axis, whose stride is 1; strides in elements. */
typedef struct fm_tensor_map {
  fm_dtype dtype;
  uint32_t rank;
  const void *address;
  int64_t extents[5], strides[5];
  uint32_t box[5];
} fm_tensor_map;
flashmla_status fm_encode(const fm_driver *driver, const fm_tensor_map *tensor, CUtensorMap *map);
/* The same tensor at another address. */
flashmla_status fm_encode_address(const fm_driver *driver, const void *address, CUtensorMap *map);

#endif /* FLASHMLA_CUDA_LAUNCH_H_ */
