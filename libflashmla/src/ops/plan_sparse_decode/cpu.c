/* cpu.c - plan_sparse_decode on host memory: the host scheduler, which is no row of the kernel table. */
#include "attention/cpu_run.h"
#include "ops/sparse_decode/sparse_decode.h"

static flashmla_status run(fm_call *call, void *state) {
  const fm_attention *attention = &((const fm_sparse_decode *)state)->attention;
  (void)call;
  fm_schedule_on_host(&attention->work, &attention->tiling, attention->schedule);
  fm_set_last_kernel("");
  return FLASHMLA_OK;
}

static flashmla_status launch(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  return fm_with_values_taken(call, &decode->attention, run, decode);
}

const fm_backend fm_plan_sparse_decode_cpu = {.launch = launch};
