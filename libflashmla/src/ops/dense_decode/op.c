/* op.c - dense_decode: its descriptor, the rules that its plan does not have, and its entry points. */
#include "attention/describe.h"
#include "attention/tuned.h"
#include "ops/dense_decode/dense_decode.h"

typedef flashmla_dense_decode_params params_type;
enum { OUT = FM_STEP_ROWS, LSE, GLOBAL_SEQLENS, ATTN_SINK, DESCALE_Q, DESCALE_K, ROWS };
static const fm_result_rows result_rows = {.q = FM_Q, .q_rope = FM_Q_ROPE, .out = OUT, .lse = LSE, .sink = ATTN_SINK};

static const fm_argument arguments[ROWS] = {
    FM_STEP_ARGUMENTS(params_type, false),
    [OUT] = {FM_OUT_FIELDS(params_type, out, FM_D_V), .dtypes = FM_ONLY(FM_FP32), .like = FM_LIKE(FM_Q),
             .written = true},
    [LSE] = {FM_LSE_FIELDS(params_type, lse), .written = true, .optional = true},
    [GLOBAL_SEQLENS] = {FM_FIELD(params_type, global_seqlens), .rank = 1, .axes = {FM_BATCH},
                        .dtypes = FM_ONLY(FM_INT32), .alignment = sizeof(int32_t), .optional = true},
    [ATTN_SINK] = {FM_SINK_FIELDS(params_type, attn_sink)},
    [DESCALE_Q] = {FM_DESCALE_FIELDS(params_type, descale_q)},
    [DESCALE_K] = {FM_DESCALE_FIELDS(params_type, descale_k)},
};

static fm_step_scalars scalars_of(const params_type *params) {
  return (fm_step_scalars){params->flags, params->max_seqlen_q, params->kv_format, params->window};
}

static flashmla_status read_form(const void *given, fm_form *form) {
  const params_type *params = given;
  return fm_read_step(params->cu_seqlens_q, params->q_rope, scalars_of(params), form);
}

static flashmla_status check_descales(const fm_call *call, const fm_dense_decode *decode) {
  if (call->tensors.given[DESCALE_Q] != NULL && !decode->attention.queries.coded)
    return fm_fail(FLASHMLA_ERROR_VALUE, "descale_q is given; with q.dtype %s it must be left out",
                   fm_dtype_name((int32_t)decode->attention.queries.dtype));
  return fm_check_descale(call, DESCALE_K, decode->paged.pages.format);
}

static flashmla_status check_compute(int32_t compute, const fm_format *format, bool *fp8) {
  if (compute != FLASHMLA_COMPUTE_DEFAULT && compute != FLASHMLA_COMPUTE_FP8)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}compute is %d; it must be a flashmla_compute", compute);
  *fp8 = compute == FLASHMLA_COMPUTE_FP8;
  if (*fp8 && format->scale != FM_SCALE_CALL)
    return fm_fail(FLASHMLA_ERROR_VALUE,
                   "{params.|}compute is \"fp8\"; with kv_cache in format \"%s\" it must be "
                   "\"default\"",
                   format->name);
  return FLASHMLA_OK;
}

static flashmla_status check_shapes(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_dense_decode *decode = state;
  FM_TRY(fm_check_step(call, scalars_of(params), decode));
  FM_TRY(check_descales(call, decode));
  FM_TRY(check_compute(params->compute, decode->paged.pages.format, &decode->fp8_products));
  call->empty = fm_is_empty(&decode->attention.work);
  decode->attention.own_plan = params->plan == NULL;
  return FLASHMLA_OK;
}

static flashmla_status check_shard(const params_type *params, fm_mask *mask) {
  const int32_t rank = params->cp_rank, world = params->cp_world, interleave = params->cp_interleave;
  if (world < 0) return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}cp_world is %d; it must be >= 0", world);
  if (world == 0 && rank != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}cp_rank is %d; with cp_world 0 it must be 0", rank);
  if (world == 0 && interleave != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}cp_interleave is %d; with cp_world 0 it must be 0", interleave);
  if (world == 0 && params->global_seqlens != NULL)
    return fm_fail(FLASHMLA_ERROR_VALUE, "global_seqlens is given; with {params.|}cp_world 0 it must be left out");
  if (world > 0 && (rank < 0 || rank >= world))
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}cp_rank is %d; it must be in [0, %d)", rank, world);
  if (world > 0 && interleave <= 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}cp_interleave is %d; with cp_world %d it must be > 0", interleave,
                   world);
  if (world > 0 && params->global_seqlens == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER,
                   "global_seqlens is {NULL|None}; with {params.|}cp_world %d it is required", world);
  if (world > 0 && params->window > 0)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "{params.|}window is %d; supported with {params.|}cp_world %d is 0",
                   params->window, world);
  mask->cp_rank = rank;
  mask->cp_world = world;
  mask->cp_interleave = interleave;
  return FLASHMLA_OK;
}

static flashmla_status check_values(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_dense_decode *decode = state;
  FM_TRY(fm_check_scale(params->flags, params->softmax_scale, &decode->attention.queries));
  FM_TRY(check_shard(params, &decode->attention.mask));
  decode->num_threads = params->num_threads;
  fm_read_results(call, result_rows, params->flags, &decode->attention);
  decode->paged.block_table_stride = call->views[FM_BLOCK_TABLE].stride[0];
  return FLASHMLA_OK;
}

static fm_given_plan given_plan(const fm_call *call, const fm_dense_decode *decode) {
  return fm_decode_plan(decode, ((const params_type *)(const void *)call->params)->plan);
}

static flashmla_status lay_out_step(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  FM_TRY(fm_tile_step(call, decode));
  return fm_lay_out_attention(call, &decode->attention);
}

static flashmla_status lay_out(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  const fm_given_plan given = given_plan(call, decode);
  FM_TRY(fm_use_plan(&given, call, &decode->attention));
  if (call->empty) return FLASHMLA_OK;
  fm_look_up_step(call, decode);
  return fm_lay_out_tuned(call, decode, &decode->attention, lay_out_step);
}

static flashmla_status bind(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_dense_decode *decode = state;
  fm_attention *attention = &decode->attention;
  const fm_given_plan given = given_plan(call, decode);
  if (call->again) FM_TRY(fm_use_plan_again(&given, call, attention));
  fm_bind_lengths(call, decode);
  fm_bind_results(call, result_rows, attention);
  fm_bind_pages(call, FM_KV_CACHE, &decode->paged.pages);
  decode->paged.pages.descale = call->views[DESCALE_K].data;
  attention->queries.descale = call->views[DESCALE_Q].data;
  decode->paged.block_table = call->views[FM_BLOCK_TABLE].data;
  attention->mask.global_seqlens = call->views[GLOBAL_SEQLENS].data;
  fm_bind_schedule(params->workspace, attention);
  decode->stream = params->stream;
  return FLASHMLA_OK;
}

/* With a window the query tokens of a request attend window + s_q - 1 tokens between them. */
static void describe(const fm_call *call, const void *state, fm_facts *facts) {
  const fm_dense_decode *decode = state;
  const fm_work *work = &decode->attention.work;
  const int64_t seen = work->window > 0 ? (int64_t)work->window + work->s_q - 1 : work->capacity;
  (void)call;
  fm_describe_attention(&decode->attention, facts);
  facts->record.kv_format = decode->paged.kv_format;
  facts->items[0] = fm_attended_items(&decode->attention, work->lengths, fm_min64(seen, work->capacity),
                                      fm_token_bytes_of(&decode->paged.pages) * work->h_kv);
}

static const flashmla_kernel_info cpu_kernels[] = {
    [FM_BF16] = {.name = "dense_decode_bf16_cpu", .operation = "dense_decode", .dtype = "bfloat16", .target = "cpu"},
    [FM_FP16] = {.name = "dense_decode_fp16_cpu", .operation = "dense_decode", .dtype = "float16", .target = "cpu"},
    [FM_FP32] = {.name = "dense_decode_fp32_cpu", .operation = "dense_decode", .dtype = "float32", .target = "cpu"}};

static const uint16_t ends[] = {
    FM_END(params_type, stream),         FM_END(params_type, cu_seqlens_q), FM_END(params_type, max_seqlen_q),
    FM_END(params_type, cp_rank),        FM_END(params_type, cp_world),     FM_END(params_type, cp_interleave),
    FM_END(params_type, global_seqlens), FM_END(params_type, attn_sink),    FM_END(params_type, kv_format),
    FM_END(params_type, window),         FM_END(params_type, descale_q),    FM_END(params_type, descale_k),
    FM_END(params_type, compute),        offsetof(params_type, q_rope), /* with the padding that the struct had there */
    FM_END(params_type, q_rope)};

static const fm_operation dense_decode = {
    .name = "dense_decode",
    .params = FM_STRUCT("params", params_type, ends),
    .flags = FM_STEP_FLAGS,
    .threads_offset = offsetof(params_type, num_threads),
    .arguments = arguments,
    .num_arguments = ROWS,
    .axes = fm_decode_axes,
    .num_axes = FM_DECODE_AXES,
    .scratch = "workspace",
    .scratch_offset = offsetof(params_type, workspace),
    .scratch_size_offset = offsetof(params_type, workspace_size),
    .stream_offset = offsetof(params_type, stream),
    .state_size = sizeof(fm_dense_decode),
    .read_form = read_form,
    .check_shapes = check_shapes,
    .check_values = check_values,
    .lay_out = lay_out,
    .bind = bind,
    .describe = describe,
    .cuda = &fm_dense_decode_cuda,
    .cpu = &fm_dense_decode_cpu,
    .cpu_kernels = cpu_kernels,
    .num_cpu_kernels = sizeof cpu_kernels / sizeof cpu_kernels[0],
};
FM_REGISTER(dense_decode, params_type, arguments, fm_decode_axes);

flashmla_status flashmla_dense_decode_workspace_size(const flashmla_dense_decode_params *params, uint64_t *bytes) {
  fm_dense_decode decode;
  return fm_query_size(&dense_decode, params, &decode, bytes);
}

flashmla_status flashmla_dense_decode(const flashmla_dense_decode_params *params) {
  fm_dense_decode decode;
  return fm_run(&dense_decode, params, &decode, NULL);
}

flashmla_status flashmla_dense_decode_prepare(const flashmla_dense_decode_params *params,
                                              flashmla_prepared **prepared) {
  return fm_prepare(&dense_decode, params, prepared);
}

flashmla_status flashmla_dense_decode_run(const flashmla_prepared *prepared,
                                          const flashmla_dense_decode_params *params) {
  fm_dense_decode decode;
  return fm_run_prepared(&dense_decode, prepared, params, &decode, NULL);
}
