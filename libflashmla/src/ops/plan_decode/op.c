/* op.c - plan_decode: the schedule of a decode step, which the calls of all its layers share. */
#include "attention/describe.h"
#include "attention/tuned.h"
#include "ops/dense_decode/dense_decode.h"

typedef flashmla_plan_decode_params params_type;

static const fm_argument arguments[FM_STEP_ROWS] = {FM_STEP_ARGUMENTS(params_type, true)};

static fm_step_scalars scalars_of(const params_type *params) {
  return (fm_step_scalars){params->flags, params->max_seqlen_q, params->kv_format, params->window};
}

static flashmla_status read_form(const void *given, fm_form *form) {
  const params_type *params = given;
  FM_TRY(fm_read_step(params->cu_seqlens_q, params->q_rope, scalars_of(params), form));
  if (params->reserved != 0 || params->reserved2 != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.reserved is %u and reserved2 %u; they must be 0", params->reserved,
                   params->reserved2);
  return fm_check_splits(params->num_splits, params->flags);
}

static flashmla_status check_shapes(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_dense_decode *decode = state;
  FM_TRY(fm_check_step(call, scalars_of(params), decode));
  fm_begin_plan(params->num_splits, call, &decode->attention);
  return FLASHMLA_OK;
}

static flashmla_status lay_out_step(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  FM_TRY(fm_tile_step(call, decode));
  return fm_lay_out_plan(call, &decode->attention);
}

static flashmla_status lay_out(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  if (call->empty) return FLASHMLA_OK;
  fm_look_up_step(call, decode);
  return fm_lay_out_tuned(call, decode, &decode->attention, lay_out_step);
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
  const fm_given_plan made = fm_decode_plan(decode, NULL);
  fm_fill_plan(&made, call, &decode->attention, params->buffer);
  return FLASHMLA_OK;
}

static void describe(const fm_call *call, const void *state, fm_facts *facts) {
  (void)call;
  fm_describe_attention(&((const fm_dense_decode *)state)->attention, facts);
}

static const uint16_t ends[] = {FM_END(params_type, stream),       FM_END(params_type, cu_seqlens_q),
                                FM_END(params_type, max_seqlen_q), FM_END(params_type, reserved2),
                                FM_END(params_type, kv_format),    FM_END(params_type, window),
                                FM_END(params_type, q_rope)};

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
    .stream_offset = offsetof(params_type, stream),
    .state_size = sizeof(fm_dense_decode),
    .read_form = read_form,
    .check_shapes = check_shapes,
    .lay_out = lay_out,
    .bind = bind,
    .finish = stamp,
    .describe = describe,
    .cuda = &fm_plan_decode_cuda,
    .cpu = &fm_plan_decode_cpu,
};
FM_REGISTER(plan_decode, params_type, arguments, fm_decode_axes);

flashmla_status flashmla_plan_decode_size(const flashmla_plan_decode_params *params, uint64_t *bytes) {
  fm_dense_decode decode;
  return fm_query_size(&plan_decode, params, &decode, bytes);
}

flashmla_status flashmla_plan_decode(const flashmla_plan_decode_params *params, flashmla_plan *plan) {
  fm_dense_decode decode;
  FM_TRY(fm_check_plan_result(plan));
  return fm_run(&plan_decode, params, &decode, plan);
}

flashmla_status flashmla_plan_decode_prepare(const flashmla_plan_decode_params *params, flashmla_prepared **prepared) {
  return fm_prepare(&plan_decode, params, prepared);
}

flashmla_status flashmla_plan_decode_run(const flashmla_prepared *prepared, const flashmla_plan_decode_params *params,
                                         flashmla_plan *plan) {
  fm_dense_decode decode;
  FM_TRY(fm_check_plan_result(plan));
  return fm_run_prepared(&plan_decode, prepared, params, &decode, plan);
}
