/* launch.h - launches of one call on the caller's stream, and the tensor maps they take. */
#ifndef FLASHMLA_CUDA_LAUNCH_H_
#define FLASHMLA_CUDA_LAUNCH_H_

#include "cuda/kernel_params.h"
#include "cuda/kernels.h"

#define FM_MAX_PARAMS 192 /* of a kernel */

/* What the launches of one call share. */
typedef struct fm_launcher {
  const fm_driver *driver;
  fm_device device;
  int driver_version;
  CUstream stream;
  bool pushed; /* a context, which fm_launcher_end pops */
} fm_launcher;

/* A kernel that is loaded on the call's device. */
typedef struct fm_loaded {
  const fm_kernel *kernel;
  CUkernel handle;
} fm_loaded;

/* launch.c. The device exists and is of a supported architecture; `argument`: whose value `device_id` is. */
flashmla_status fm_supported_device(const char *argument, int32_t device_id, const fm_driver **driver,
                                    fm_device *device);
/* Enters the device, until fm_launcher_end. */
flashmla_status fm_launcher_begin(fm_launcher *launcher, const char *argument, int32_t device_id, void *stream);
void fm_launcher_end(const fm_launcher *launcher);
/* Selects and loads the kernel for a need, whose driver version is filled in here. */
flashmla_status fm_launcher_load(const fm_launcher *launcher, fm_need need, fm_loaded *loaded);
/* `params`: the kernel's struct of kernel_params.h; `list`: the offsets in it. */
flashmla_status fm_launch(const fm_launcher *launcher, const fm_loaded *loaded, unsigned grid, const void *params,
                          const fm_param *list, size_t count);
/* Launches with `params`, and `list` an array. */
#define FM_LAUNCH(launcher, loaded, grid, params, list)                                              \
  do {                                                                                               \
    _Static_assert(sizeof(list) / sizeof *(list) <= FM_MAX_PARAMS, "every parameter has a pointer"); \
    FM_TRY(fm_launch(launcher, loaded, grid, params, list, sizeof(list) / sizeof *(list)));          \
  } while (0)

/* tensor_maps.c: q with a box of one row block, and kv_cache with a box of box_rows rows. */
flashmla_status fm_encode_q(const fm_driver *driver, const fm_run *run, CUtensorMap *map);
flashmla_status fm_encode_kv(const fm_driver *driver, const fm_problem *problem, int32_t box_rows, CUtensorMap *map);

#endif /* FLASHMLA_CUDA_LAUNCH_H_ */
