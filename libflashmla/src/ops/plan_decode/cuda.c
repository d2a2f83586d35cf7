/* cuda.c - plan_decode on a GPU. */
#include "ops/dense_decode/dense_decode.h"
#include "schedule/cuda.h"

static flashmla_status prepare(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  FM_TRY(fm_gpu_open("q.device.device_id", call->device_id, &decode->gpu));
  decode->attention.divisors = fm_divisors_of(&decode->attention.work, &decode->attention.tiling);
  FM_TRY(fm_prepare_check(decode));
  return fm_load_plan(decode->gpu, &decode->plan);
}

static flashmla_status launch(fm_call *call, void *state) {
  const fm_dense_decode *decode = state;
  const fm_attention *attention = &decode->attention;
  const fm_gpu gpu = decode->gpu;
  (void)call;
  bool pushed;
  FM_TRY(fm_device_enter(gpu.driver, gpu.device, &pushed));
  flashmla_status status = fm_launch_check(decode);
  if (status == FLASHMLA_OK)
    status = fm_launch_plan(gpu, &decode->plan, &attention->work, &attention->tiling, &attention->divisors,
                            &attention->schedule, decode->stream);
  fm_device_leave(gpu.driver, pushed);
  if (status == FLASHMLA_OK) fm_set_last_kernel(decode->plan.kernel->name);
  return status;
}

const fm_backend fm_plan_decode_cuda = {prepare, launch};
