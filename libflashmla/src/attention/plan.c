/* plan.c - see plan.h. */
#include "attention/plan.h"

static flashmla_status read_plan(const fm_given_plan *given, const fm_call *call, fm_attention *attention) {
  return fm_read_plan(given->kind, given->plan, call, given->facts, &attention->work, &attention->stamp);
}

flashmla_status fm_use_plan(const fm_given_plan *given, const fm_call *call, fm_attention *attention) {
  if (attention->own_plan) return FLASHMLA_OK;
  FM_TRY(read_plan(given, call, attention));
  attention->work.num_splits = attention->stamp.num_splits;
  attention->work.full = attention->stamp.full != 0;
  return FLASHMLA_OK;
}

flashmla_status fm_lay_out_attention(fm_call *call, fm_attention *attention) {
  const bool makes = fm_makes_schedule(attention);
  if (!makes) FM_TRY(fm_check_plan_tiling(&attention->stamp, &attention->tiling));
  FM_TRY(fm_lay_out(&attention->work, &attention->tiling, attention->d_v, makes, &attention->layout));
  call->scratch_bytes = attention->layout.workspace_bytes;
  return FLASHMLA_OK;
}

flashmla_status fm_use_plan_again(const fm_given_plan *given, const fm_call *call, fm_attention *attention) {
  const int32_t num_splits = attention->stamp.num_splits, full = attention->stamp.full;
  if ((given->plan == NULL) != attention->own_plan)
    return attention->own_plan
               ? fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan is given; the prepared call was without one")
               : fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan is {NULL|None}; the prepared call was with one");
  if (attention->own_plan) return FLASHMLA_OK;
  FM_TRY(read_plan(given, call, attention));
  if (attention->stamp.num_splits != num_splits)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan has num_splits %d, that of the prepared call %d",
                   attention->stamp.num_splits, num_splits);
  if (attention->stamp.full != full)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made %s lengths, that of the prepared call %s them",
                   full ? "with" : "without", full ? "without" : "with");
  if (fm_makes_schedule(attention)) return FLASHMLA_OK;
  return fm_check_plan_tiling(&attention->stamp, &attention->tiling);
}

void fm_bind_schedule(void *workspace, fm_attention *attention) {
  void *schedule = fm_makes_schedule(attention) ? workspace : (void *)(uintptr_t)attention->stamp.buffer;
  attention->schedule = fm_schedule_in(schedule, &attention->tiling, &attention->layout);
  attention->partials = fm_partials_in(workspace, &attention->layout);
}

flashmla_status fm_check_splits(int32_t num_splits, uint32_t flags) {
  if (num_splits < 0 || num_splits > FM_MAX_SPLITS)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}num_splits is %d; it must be in [0, %d]", num_splits,
                   FM_MAX_SPLITS);
  if (num_splits != 0 && (flags & FLASHMLA_BATCH_INVARIANT) != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE,
                   "{params.|}num_splits is %d; with {FLASHMLA_BATCH_INVARIANT|batch_invariant} it must be 0",
                   num_splits);
  return FLASHMLA_OK;
}

void fm_begin_plan(int32_t num_splits, fm_call *call, fm_attention *attention) {
  attention->work.num_splits = num_splits;
  attention->tiling.num_splits = num_splits; /* what the stamp of an empty call says */
  attention->own_plan = true;
  call->empty = fm_is_empty(&attention->work);
}

flashmla_status fm_lay_out_plan(fm_call *call, fm_attention *attention) {
  FM_TRY(fm_lay_out(&attention->work, &attention->tiling, attention->d_v, attention->own_plan, &attention->layout));
  call->scratch_bytes = attention->layout.plan_bytes;
  return FLASHMLA_OK;
}

flashmla_status fm_check_plan_result(const flashmla_plan *plan) {
  if (plan != NULL) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "plan is NULL; the result goes there");
}

void fm_fill_plan(const fm_given_plan *made, const fm_call *call, const fm_attention *attention, void *buffer) {
  fm_stamp_plan(made->kind, call, made->facts, &attention->work, &attention->tiling, buffer, call->result);
}
