/* op.c - plan_decode: the schedule of a decode step, which the calls of all its layers share. */
#include "ops/dense_decode/dense_decode.h"

typedef flashmla_plan_decode_params params_type;

static const fm_argument arguments[FM_STEP_ROWS] = {FM_STEP_ARGUMENTS(params_type, true)};

static flashmla_status read_form(const void *given, fm_form *form) {
  const params_type *params = given;
  FM_TRY(fm_check_queries(params->cu_seqlens_q, params->max_seqlen_q, form));
  if (params->reserved != 0 || params->reserved2 != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.reserved is %u and reserved2 %u; they must be 0", params->reserved,
                   params->reserved2);
  if (params->num_splits < 0 || params->num_splits > FM_MAX_SPLITS)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}num_splits is %d; it must be in [0, %d]", params->num_splits,
                   FM_MAX_SPLITS);
  if (params->num_splits != 0 && (params->flags & FLASHMLA_BATCH_INVARIANT) != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE,
                   "{params.|}num_splits is %d; with {FLASHMLA_BATCH_INVARIANT|batch_invariant} it must be 0",
                   params->num_splits);
  return FLASHMLA_OK;
}

static flashmla_status check_shapes(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_dense_decode *decode = state;
  FM_TRY(fm_check_step(call, params->flags, params->max_seqlen_q, decode));
  decode->attention.work.num_splits = params->num_splits;
  decode->attention.own_plan = true;
  call->empty = fm_is_empty(&decode->attention.work);
  return FLASHMLA_OK;
}

static flashmla_status lay_out(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  fm_attention *attention = &decode->attention;
  attention->tiling.num_splits = attention->work.num_splits; /* what the stamp of an empty call says */
  if (call->empty) return FLASHMLA_OK;
  FM_TRY(fm_tile_step(call, decode));
  FM_TRY(fm_lay_out(&attention->work, &attention->tiling, attention->d_v, attention->own_plan, &attention->layout));
  call->scratch_bytes = attention->layout.plan_bytes;
  return FLASHMLA_OK;
}

static flashmla_status bind(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_dense_decode *decode = state;
  fm_bind_lengths(call, decode);
  decode->attention.schedule = fm_schedule_in(params->buffer, &decode->attention.tiling, &decode->attention.layout);
  decode->stream = params->stream;
  return FLASHMLA_OK;
}

static flashmla_status stamp(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  const fm_dense_decode *decode = state;
  int32_t facts[FM_PLAN_FACTS] = {0};
  fm_decode_plan_facts(decode, facts);
  fm_stamp_plan(&fm_decode_plan, call, facts, &decode->attention.work, &decode->attention.tiling, params->buffer,
                call->result);
  return FLASHMLA_OK;
}

static const uint16_t ends[] = {FM_END(params_type, stream), FM_END(params_type, cu_seqlens_q),
                                FM_END(params_type, max_seqlen_q), FM_END(params_type, reserved2)};

static const fm_operation plan_decode = {
    .name = "plan_decode",
    .params = FM_STRUCT("params", params_type, ends),
    .flags = FM_STEP_FLAGS,
    .arguments = arguments,
    .num_arguments = FM_STEP_ROWS,
    .axes = fm_decode_axes,
    .num_axes = FM_DECODE_AXES,
    .scratch = "buffer",
    .scratch_offset = offsetof(params_type, buffer),
    .scratch_size_offset = offsetof(params_type, buffer_size),
    .state_size = sizeof(fm_dense_decode),
    .read_form = read_form,
    .check_shapes = check_shapes,
    .lay_out = lay_out,
    .bind = bind,
    .finish = stamp,
    .cuda = &fm_plan_decode_cuda,
    .cpu = &fm_plan_decode_cpu,
};
FM_REGISTER(plan_decode, params_type, arguments, fm_decode_axes);

flashmla_status flashmla_plan_decode_size(const flashmla_plan_decode_params *params, uint64_t *bytes) {
  fm_dense_decode decode;
  return fm_query_size(&plan_decode, params, &decode, bytes);
}

static flashmla_status check_result(const flashmla_plan *plan) {
  if (plan != NULL) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "plan is NULL; the result goes there");
}

flashmla_status flashmla_plan_decode(const flashmla_plan_decode_params *params, flashmla_plan *plan) {
  fm_dense_decode decode;
  FM_TRY(check_result(plan));
  return fm_run(&plan_decode, params, &decode, plan);
}

flashmla_status flashmla_plan_decode_prepare(const flashmla_plan_decode_params *params, flashmla_prepared **prepared) {
  return fm_prepare(&plan_decode, params, prepared);
}

flashmla_status flashmla_plan_decode_run(const flashmla_prepared *prepared, const flashmla_plan_decode_params *params,
                                         flashmla_plan *plan) {
  fm_dense_decode decode;
  FM_TRY(check_result(plan));
  return fm_run_prepared(&plan_decode, prepared, params, &decode, plan);
}
