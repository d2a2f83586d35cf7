/* cuda.c - plan_sparse_decode on a GPU. */
#include "attention/cuda.h"
#include "ops/sparse_decode/sparse_decode.h"

static flashmla_status prepare(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  fm_attention *attention = &decode->attention;
  FM_TRY(fm_gpu_open("q.device.device_id", call->device_id, &decode->kernels.gpu));
  attention->divisors = fm_divisors_of(&attention->work, &attention->tiling);
  FM_TRY(fm_prepare_sparse_check(decode));
  return fm_load_plan(decode->kernels.gpu, &decode->kernels.plan);
}

static flashmla_status launch_all(const void *state) {
  const fm_sparse_decode *decode = state;
  FM_TRY(fm_launch_sparse_check(decode));
  return fm_launch_schedule(&decode->attention, &decode->kernels, decode->stream);
}

static flashmla_status launch(fm_call *call, void *state) {
  const fm_sparse_decode *decode = state;
  (void)call;
  return fm_in_context(decode->kernels.gpu, launch_all, decode);
}

const fm_backend fm_plan_sparse_decode_cuda = {prepare, launch};
