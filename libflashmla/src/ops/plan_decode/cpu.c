/* cpu.c - plan_decode on host memory: the host scheduler, which is no row of the kernel table. */
#include "ops/dense_decode/dense_decode.h"

static flashmla_status run(const fm_call *call, const fm_dense_decode *decode) {
  (void)call;
  const fm_attention *attention = &decode->attention;
  FM_TRY(fm_check_values_on_host(decode));
  fm_schedule_on_host(&attention->work, &attention->tiling, attention->schedule);
  fm_set_last_kernel("");
  return FLASHMLA_OK;
}

static flashmla_status launch(fm_call *call, void *state) { return fm_with_values_taken(call, state, run); }

const fm_backend fm_plan_decode_cpu = {.launch = launch};
