/* fake_plan_sparse.c - see fake_plan_sparse.h. */
#include "fake_plan_sparse.h"

#include "attention/cpu_run.h"

fm_sparse_decode fake_plan_sparse;

static flashmla_status prepare(fm_call *call, void *state) {
  return fake_prepare(call, &((fm_sparse_decode *)state)->kernels.plan.handle);
}

/* A schedule that is in host memory is read by the core. */
static flashmla_status launch(fm_call *call, void *state) {
  fake_plan_sparse = *(const fm_sparse_decode *)state;
  const fm_attention *attention = &fake_plan_sparse.attention;
  if (!call->cuda) fm_schedule_on_host(&attention->work, &attention->tiling, attention->schedule);
  return fake_launched(call, fake_plan_sparse.kernels.plan.handle, NULL, call->cuda ? "fake_plan" : "");
}

const fm_backend fm_plan_sparse_decode_cuda = {prepare, launch}, fm_plan_sparse_decode_cpu = {.launch = launch};
