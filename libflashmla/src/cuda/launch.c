/* launch.c - see launch.h. */
#include "cuda/launch.h"

enum { PDL_IN_GRAPHS = 12030 /* first driver that captures programmatic dependent launches in CUDA graphs */ };

flashmla_status fm_gpu_open(const char *argument, int32_t device_id, fm_gpu *gpu) {
  if (fm_kernel_count == 0)
    return fm_fail(FLASHMLA_ERROR_NO_KERNELS,
                   "the tensors are on a CUDA device, but this library was built without GPU kernels: build it with "
                   "its extra [aot] installed, which has their compiler (python3 build.py lib)");
  flashmla_status status;
  gpu->driver = fm_driver_open(&status);
  if (!gpu->driver) return status;
  FM_TRY(fm_device_get(gpu->driver, argument, device_id, &gpu->device));
  if (!fm_kernel_for_arch(gpu->device->arch))
    return fm_fail(FLASHMLA_ERROR_ARCHITECTURE,
                   "CUDA device %d is of architecture sm_%d; this library has kernels for %s only", device_id,
                   gpu->device->arch, fm_kernel_targets().chars);
  return FLASHMLA_OK;
}

flashmla_status fm_load(fm_gpu gpu, fm_need need, fm_loaded *loaded) {
  FM_TRY(fm_kernel_select(&need, gpu.device->arch, gpu.driver->version, &loaded->kernel));
  return fm_kernel_load(gpu.driver, loaded->kernel, gpu.device, &loaded->handle, &loaded->clusters);
}

flashmla_status fm_launch(fm_gpu gpu, const fm_loaded *loaded, int32_t grid, const void *params, void *stream) {
  const fm_kernel *kernel = loaded->kernel;
  void *pointers[FM_KERNEL_MOST_PARAMS];
  for (int32_t i = 0; i < kernel->num_params; i++) pointers[i] = (char *)(uintptr_t)params + kernel->params[i].offset;
  CUlaunchAttribute attributes[2] = {{.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION},
                                     {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION}};
  attributes[0].value.clusterDim.x = (unsigned)kernel->cluster;
  attributes[0].value.clusterDim.y = attributes[0].value.clusterDim.z = 1;
  /* The kernels wait for what is before them in the stream themselves, so their launch may overlap its end. */
  attributes[1].value.programmaticStreamSerializationAllowed = 1;
  CUlaunchConfig config = {.gridDimX = (unsigned)grid,
                           .gridDimY = 1,
                           .gridDimZ = 1,
                           .blockDimX = (unsigned)kernel->threads,
                           .blockDimY = 1,
                           .blockDimZ = 1,
                           .sharedMemBytes = (unsigned)kernel->shared_bytes,
                           .hStream = (CUstream)stream,
                           .attrs = attributes,
                           .numAttrs = gpu.driver->version >= PDL_IN_GRAPHS ? 2 : 1};
  FM_DRIVER_TRY(gpu.driver, launch_kernel_ex, &config, (CUfunction)loaded->handle, pointers, NULL);
  return FLASHMLA_OK;
}

flashmla_status fm_in_context(fm_gpu gpu, fm_launches *launches, const void *state) {
  bool pushed;
  FM_TRY(fm_device_enter(gpu.driver, gpu.device, &pushed));
  const flashmla_status status = launches(state);
  fm_device_leave(gpu.driver, pushed);
  return status;
}

flashmla_status fm_launch_alone(fm_gpu gpu, const fm_loaded *loaded, int32_t grid, const void *params, void *stream) {
  bool pushed;
  FM_TRY(fm_device_enter(gpu.driver, gpu.device, &pushed));
  const flashmla_status status = fm_launch(gpu, loaded, grid, params, stream);
  fm_device_leave(gpu.driver, pushed);
  if (status == FLASHMLA_OK) fm_set_last_kernel(loaded->kernel->name);
  return status;
}
