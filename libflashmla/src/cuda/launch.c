/* launch.c - enters a device, loads kernels and launches them on the caller's stream. */
#include "cuda/launch.h"
#include "try.h"

#define HOPPER 90
#define PDL_IN_GRAPHS 12030 /* first driver that captures programmatic dependent launches in CUDA graphs */

flashmla_status fm_supported_device(const char *argument, int32_t device_id, const fm_driver **driver,
                                    fm_device *device) {
  if (fm_kernel_count == 0)
    return fm_fail(FLASHMLA_ERROR_NO_KERNELS,
                   "the tensors are on a CUDA device, but this library was built without GPU kernels");
  flashmla_status status;
  *driver = fm_driver_open(&status);
  if (!*driver) return status;
  FM_TRY(fm_device_get(*driver, argument, device_id, device));
  if (device->architecture != HOPPER)
    return fm_fail(FLASHMLA_ERROR_ARCHITECTURE,
                   "CUDA device %d is of architecture sm_%d; this library has kernels for sm_90a (Hopper) only",
                   device_id, device->architecture);
  return FLASHMLA_OK;
}

flashmla_status fm_launcher_begin(fm_launcher *launcher, const char *argument, int32_t device_id, void *stream) {
  *launcher = (fm_launcher){.stream = (CUstream)stream};
  FM_TRY(fm_supported_device(argument, device_id, &launcher->driver, &launcher->device));
  FM_DRIVER_TRY(launcher->driver, driver_get_version(&launcher->driver_version));
  return fm_device_enter(launcher->driver, &launcher->device, &launcher->pushed);
}

void fm_launcher_end(const fm_launcher *launcher) { fm_device_leave(launcher->driver, launcher->pushed); }

flashmla_status fm_launcher_load(const fm_launcher *launcher, fm_need need, fm_loaded *loaded) {
  need.driver_version = launcher->driver_version;
  FM_TRY(fm_kernel_select(&need, &loaded->kernel));
  return fm_kernel_load(launcher->driver, loaded->kernel, &launcher->device, &loaded->handle);
}

flashmla_status fm_launch(const fm_launcher *launcher, const fm_loaded *loaded, unsigned grid, const void *params,
                          const fm_param *list, size_t count) {
  const fm_kernel *kernel = loaded->kernel;
  void *pointers[FM_MAX_PARAMS];
  for (size_t i = 0; i < count; i++) pointers[i] = (char *)(uintptr_t)params + list[i].offset;
  CUlaunchAttribute attributes[2] = {{.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION},
                                     {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION}};
  attributes[0].value.clusterDim.x = (unsigned)kernel->cluster;
  attributes[0].value.clusterDim.y = attributes[0].value.clusterDim.z = 1;
  /* The kernels wait for what is before them in the stream themselves, so their launch may overlap its end. */
  attributes[1].value.programmaticStreamSerializationAllowed = 1;
  CUlaunchConfig config = {.gridDimX = grid,
                           .gridDimY = 1,
                           .gridDimZ = 1,
                           .blockDimX = (unsigned)kernel->threads,
                           .blockDimY = 1,
                           .blockDimZ = 1,
                           .sharedMemBytes = (unsigned)kernel->shared_bytes,
                           .hStream = launcher->stream,
                           .attrs = attributes,
                           .numAttrs = launcher->driver_version >= PDL_IN_GRAPHS ? 2 : 1};
  FM_DRIVER_TRY(launcher->driver, launch_kernel_ex(&config, (CUfunction)loaded->handle, pointers, NULL));
  return FLASHMLA_OK;
}
