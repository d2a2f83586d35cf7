/* cpu.c - plan_decode on host memory: the host scheduler, which is no row of the kernel table. */
#include "ops/dense_decode/dense_decode.h"

static flashmla_status launch(fm_call *call, void *state) {
  const fm_attention *attention = &((const fm_dense_decode *)state)->attention;
  (void)call;
  FM_TRY(fm_check_values_on_host(state));
  fm_schedule_on_host(&attention->work, &attention->tiling, attention->schedule);
  fm_set_last_kernel("");
  return FLASHMLA_OK;
}

const fm_backend fm_plan_decode_cpu = {.launch = launch};
