/* cpu.c - plan_sparse_decode on host memory: the host scheduler, which is no row of the kernel table. */
#include "attention/cpu_run.h"
#include "ops/sparse_decode/sparse_decode.h"

static flashmla_status run(fm_call *call, void *state) {
  const fm_sparse_decode *decode = state;
  const fm_attention *attention = &decode->attention;
  (void)call;
  FM_TRY(fm_check_sparse_values_on_host(decode));
  fm_schedule_on_host(&attention->work, &attention->tiling, attention->schedule);
  fm_set_last_kernel("");
  return FLASHMLA_OK;
}

static flashmla_status launch(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  return fm_with_values_taken(call, &decode->attention, run, decode);
}

const fm_backend fm_plan_sparse_decode_cpu = {.launch = launch};
