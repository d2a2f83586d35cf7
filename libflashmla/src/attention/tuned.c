/* tuned.c - see tuned.h. */
#include "attention/tuned.h"

#include "core/log.h"

enum { MOST_TILES = 1 << 30 /* query rows times splits never make more tiles than can be numbered */ };

/* The table for calls on a device; NULL: none. */
static const fm_tuning *table_for(int32_t device_id) {
  const fm_tuning *table = fm_tuning_now();
  if (table == NULL) return NULL;
  if (table->problem[0] != '\0') {
    if (fm_logs()) fm_log_once("tuning: \"%s\" is not used: it %s", table->path, table->problem);
    return NULL;
  }
  return fm_tuning_fits(table, device_id) ? table : NULL;
}

static fm_tuning_shape shape_of(const fm_call *call, const fm_tuned_call *facts, const fm_attention *attention) {
  const fm_work *work = &attention->work;
  return (fm_tuning_shape){
      .key = {[FM_TUNING_OPERATION] = fm_tuning_word(FM_TUNING_OPERATION, facts->operation),
              [FM_TUNING_DTYPE] = (int32_t)fm_dtype_of(fm_tensor_at(&call->tensors, facts->q, 0)->dtype),
              [FM_TUNING_D_QK] = attention->queries.d_qk,
              [FM_TUNING_H_Q] = work->h_q,
              [FM_TUNING_H_KV] = work->h_kv,
              [FM_TUNING_S_Q] = work->s_q,
              [FM_TUNING_VARLEN] = work->varlen,
              [FM_TUNING_PAGE_SIZE] = facts->page_size,
              [FM_TUNING_WINDOW] = work->window,
              [FM_TUNING_EXTRA_TOPK] = work->extra_capacity,
              [FM_TUNING_KV_FORMAT] = facts->kv_format},
      .any_format = facts->kv_format < 0,
      .batch = work->batch,
      .capacity = work->capacity};
}

void fm_look_up_tuned(const fm_call *call, const fm_tuned_call *facts, fm_attention *attention) {
  const fm_work *work = &attention->work;
  attention->tuned.found = false;
  if (attention->own_plan && work->num_splits > 0) return; /* given by who makes a plan */
  const fm_tuning *table = call->cuda && !work->batch_invariant && !work->apart ? table_for(call->device_id) : NULL;
  if (table == NULL) return;
  const fm_tuning_shape shape = shape_of(call, facts, attention);
  attention->tuned = fm_find_tuned(table, &shape);
  int64_t tiles;
  if (__builtin_mul_overflow((int64_t)work->batch * work->s_q, (int64_t)work->h_q * attention->tuned.num_splits,
                             &tiles) ||
      tiles > MOST_TILES)
    attention->tuned.found = false;
}

flashmla_status fm_lay_out_tuned(fm_call *call, void *state, fm_attention *attention, fm_hook *lay_out) {
  const fm_tuned tuned = attention->tuned, nothing = {.found = false};
  const int32_t given = attention->work.num_splits;
  uint64_t plain_bytes = 0;
  if (!tuned.found) return lay_out(call, state);
  if (call->sizes_only) {
    attention->tuned = nothing;
    FM_TRY(lay_out(call, state));
    attention->tuned = tuned;
    plain_bytes = call->scratch_bytes;
  }
  if (attention->own_plan) attention->work.num_splits = tuned.num_splits;
  FM_TRY(lay_out(call, state));
  if (call->scratch_bytes < plain_bytes) call->scratch_bytes = plain_bytes;
  if (call->sizes_only || fm_has_room(call)) return FLASHMLA_OK;
  attention->work.num_splits = given;
  attention->tuned = nothing;
  return lay_out(call, state);
}
