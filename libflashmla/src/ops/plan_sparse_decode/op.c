/* op.c - plan_sparse_decode: the schedule of a step of sparse decode, which the calls of all its layers share. */
#include "attention/describe.h"
#include "ops/sparse_decode/sparse_decode.h"

typedef flashmla_plan_sparse_decode_params params_type;

static const fm_argument arguments[FM_SPARSE_STEP_ROWS] = {FM_SPARSE_STEP_ARGUMENTS(params_type, true)};

static flashmla_status read_form(const void *given, fm_form *form) {
  const params_type *params = given;
  FM_TRY(fm_check_queries(params->cu_seqlens_q, params->q_rope, params->max_seqlen_q, form));
  const fm_format *format;
  FM_TRY(fm_find_format("kv_format", params->kv_format, &format));
  if (params->reserved != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.reserved is %u; it must be 0", params->reserved);
  /* What is split so is batch invariant. */
  return fm_check_splits(params->num_splits, params->flags & ~(uint32_t)FLASHMLA_BATCH_INVARIANT);
}

static flashmla_status check_shapes(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_sparse_decode *decode = state;
  if (params->extra_indices == NULL && params->extra_topk_length != NULL)
    return fm_fail(FLASHMLA_ERROR_VALUE, "extra_topk_length is given; without extra_indices it must be left out");
  FM_TRY(fm_check_sparse_step(call, params->flags, params->max_seqlen_q, decode));
  decode->selections[FM_MAIN].kv_format = params->kv_format;
  decode->selections[FM_MAIN].pages.format = fm_format_at(params->kv_format);
  fm_begin_plan(params->num_splits, call, &decode->attention);
  return call->cuda ? fm_check_sparse_step_on_cuda(decode) : FLASHMLA_OK;
}

static flashmla_status lay_out_step(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  FM_TRY(fm_tile_sparse_step(call, decode));
  return fm_lay_out_plan(call, &decode->attention);
}

static flashmla_status lay_out(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  if (call->empty) return FLASHMLA_OK;
  return fm_lay_out_sparse_step(call, -1, decode, lay_out_step);
}

static flashmla_status bind(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_sparse_decode *decode = state;
  fm_bind_sparse_lengths(call, decode);
  decode->attention.schedule = fm_schedule_in(params->buffer, &decode->attention.tiling, &decode->attention.layout);
  decode->stream = params->stream;
  return FLASHMLA_OK;
}

static flashmla_status stamp(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  const fm_sparse_decode *decode = state;
  const fm_given_plan made = fm_sparse_plan(decode, NULL);
  fm_fill_plan(&made, call, &decode->attention, params->buffer);
  return FLASHMLA_OK;
}

static void describe(const fm_call *call, const void *state, fm_facts *facts) {
  (void)call;
  fm_describe_attention(&((const fm_sparse_decode *)state)->attention, facts);
}

static const uint16_t ends[] = {FM_END(params_type, stream), FM_END(params_type, q_rope),
                                FM_END(params_type, kv_format), FM_END(params_type, reserved)};

static const fm_operation plan_sparse_decode = {
    .name = "plan_sparse_decode",
    .params = FM_STRUCT("params", params_type, ends),
    .flags = FM_SPARSE_FLAGS,
    .arguments = arguments,
    .num_arguments = FM_SPARSE_STEP_ROWS,
    .axes = fm_sparse_axes,
    .num_axes = FM_SPARSE_AXES,
    .scratch = "buffer",
    .scratch_offset = offsetof(params_type, buffer),
    .scratch_size_offset = offsetof(params_type, buffer_size),
    .stream_offset = offsetof(params_type, stream),
    .state_size = sizeof(fm_sparse_decode),
    .read_form = read_form,
    .check_shapes = check_shapes,
    .lay_out = lay_out,
    .bind = bind,
    .finish = stamp,
    .describe = describe,
    .cuda = &fm_plan_sparse_decode_cuda,
    .cpu = &fm_plan_sparse_decode_cpu,
};
FM_REGISTER(plan_sparse_decode, params_type, arguments, fm_sparse_axes);

flashmla_status flashmla_plan_sparse_decode_size(const flashmla_plan_sparse_decode_params *params, uint64_t *bytes) {
  fm_sparse_decode decode;
  return fm_query_size(&plan_sparse_decode, params, &decode, bytes);
}

flashmla_status flashmla_plan_sparse_decode(const flashmla_plan_sparse_decode_params *params, flashmla_plan *plan) {
  fm_sparse_decode decode;
  FM_TRY(fm_check_plan_result(plan));
  return fm_run(&plan_sparse_decode, params, &decode, plan);
}

flashmla_status flashmla_plan_sparse_decode_prepare(const flashmla_plan_sparse_decode_params *params,
                                                    flashmla_prepared **prepared) {
  return fm_prepare(&plan_sparse_decode, params, prepared);
}

flashmla_status flashmla_plan_sparse_decode_run(const flashmla_prepared *prepared,
                                                const flashmla_plan_sparse_decode_params *params, flashmla_plan *plan) {
  fm_sparse_decode decode;
  FM_TRY(fm_check_plan_result(plan));
  return fm_run_prepared(&plan_sparse_decode, prepared, params, &decode, plan);
}
