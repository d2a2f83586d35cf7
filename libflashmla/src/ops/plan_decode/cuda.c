/* cuda.c - plan_decode on a GPU. */
#include "ops/dense_decode/dense_decode.h"
#include "schedule/cuda.h"

static flashmla_status prepare(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  FM_TRY(fm_gpu_open("q.device.device_id", call->device_id, &decode->kernels.gpu));
  decode->attention.divisors = fm_divisors_of(&decode->attention.work, &decode->attention.tiling);
  FM_TRY(fm_prepare_check(decode));
  return fm_load_plan(decode->kernels.gpu, &decode->kernels.plan);
}

static flashmla_status launch_all(const void *state) {
  const fm_dense_decode *decode = state;
  const fm_attention *attention = &decode->attention;
  const fm_attention_kernels *kernels = &decode->kernels;
  FM_TRY(fm_launch_check(decode));
  FM_TRY(fm_launch_plan(kernels->gpu, &kernels->plan, &attention->work, &attention->tiling, &attention->divisors,
                        &attention->schedule, decode->stream));
  fm_set_last_kernel(kernels->plan.kernel->name);
  return FLASHMLA_OK;
}

static flashmla_status launch(fm_call *call, void *state) {
  const fm_dense_decode *decode = state;
  (void)call;
  return fm_in_context(decode->kernels.gpu, launch_all, decode);
}

const fm_backend fm_plan_decode_cuda = {prepare, launch};
