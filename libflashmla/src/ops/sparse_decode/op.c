/* op.c - sparse_decode: its descriptor, rules between its fields, and its entry points. */
#include "attention/describe.h"
#include "attention/keys.h"
#include "ops/sparse_decode/sparse_decode.h"

typedef flashmla_sparse_decode_params params_type;
enum { KV_CACHE = FM_SPARSE_STEP_ROWS, ATTN_SINK, EXTRA_KV_CACHE, OUT, LSE, DESCALE_K, EXTRA_DESCALE_K, ROWS };
static const fm_result_rows result_rows = {
    .q = FM_SPARSE_Q, .q_rope = FM_SPARSE_Q_ROPE, .out = OUT, .lse = LSE, .sink = ATTN_SINK};

static const fm_argument arguments[ROWS] = {
    FM_SPARSE_STEP_ARGUMENTS(params_type, false),
    [KV_CACHE] = {FM_PAGES_FIELDS(params_type, kv_cache)},
    [ATTN_SINK] = {FM_SINK_FIELDS(params_type, attn_sink)},
    [EXTRA_KV_CACHE] = {FM_PAGES_OF(params_type, extra_kv_cache, FM_EXTRA_PAGES, extra_kv_format, FM_EXTRA_BLOCKS,
                                    FM_EXTRA_SIZE, FM_EXTRA_ROW),
                        .optional = true},
    [OUT] = {FM_OUT_FIELDS(params_type, out, FM_SPARSE_D_V), .dtypes = FM_ONLY(FM_FP32), .like = FM_LIKE(FM_SPARSE_Q),
             .written = true},
    [LSE] = {FM_LSE_FIELDS(params_type, lse), .written = true, .optional = true},
    [DESCALE_K] = {FM_DESCALE_FIELDS(params_type, descale_k)},
    [EXTRA_DESCALE_K] = {FM_DESCALE_FIELDS(params_type, extra_descale_k)},
};

static flashmla_status read_form(const void *given, fm_form *form) {
  const params_type *params = given;
  if (params->reserved != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.reserved is %u; it must be 0", params->reserved);
  FM_TRY(fm_check_queries(params->cu_seqlens_q, params->q_rope, params->max_seqlen_q, form));
  FM_TRY(fm_add_format("kv_format", params->kv_format, FM_MAIN_PAGES, form));
  FM_TRY(fm_add_format("extra_kv_format", params->extra_kv_format, FM_EXTRA_PAGES, form));
  if (params->extra_kv_cache == NULL && params->extra_kv_format != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE,
                   "{params.|}extra_kv_format is \"%s\"; without extra_kv_cache it must be {0|None}",
                   fm_format_at(params->extra_kv_format)->name);
  return FLASHMLA_OK;
}

static flashmla_status check_presence(const params_type *params) {
  if (params->extra_kv_cache != NULL && params->extra_indices == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "extra_indices is {NULL|None}; with extra_kv_cache it is required");
  if (params->extra_kv_cache == NULL && params->extra_indices != NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "extra_kv_cache is {NULL|None}; with extra_indices it is required");
  if (params->extra_kv_cache == NULL && params->extra_descale_k != NULL)
    return fm_fail(FLASHMLA_ERROR_VALUE, "extra_descale_k is given; without extra_kv_cache it must be left out");
  if (params->extra_kv_cache == NULL && params->extra_topk_length != NULL)
    return fm_fail(FLASHMLA_ERROR_VALUE, "extra_topk_length is given; without extra_kv_cache it must be left out");
  return FLASHMLA_OK;
}

/* A cache of rows that fit q. */
static flashmla_status check_selection(const fm_call *call, int32_t row, int32_t kv_format, const fm_queries *queries,
                                       fm_selection *selection) {
  const int32_t indices = row == KV_CACHE ? FM_INDICES : FM_EXTRA_INDICES;
  FM_TRY(fm_check_pages(call, row, kv_format, false, &selection->pages));
  FM_TRY(fm_check_keys(call, FM_SPARSE_Q, row, queries, &selection->pages));
  FM_TRY(fm_check_descale(call, row == KV_CACHE ? DESCALE_K : EXTRA_DESCALE_K, selection->pages.format));
  selection->kv_format = kv_format;
  selection->topk = call->extents[row == KV_CACHE ? FM_TOPK : FM_EXTRA_TOPK];
  selection->wide = fm_dtype_of(fm_tensor_at(&call->tensors, indices, 0)->dtype) == FM_INT64;
  return FLASHMLA_OK;
}

/* A kernel reads one format. */
static bool needs_two_kernels(const fm_selection *selections) {
  const fm_selection *extra = &selections[FM_EXTRA];
  return extra->topk > 0 && extra->kv_format != selections[FM_MAIN].kv_format;
}

static flashmla_status check_shapes(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_sparse_decode *decode = state;
  const fm_queries *queries = &decode->attention.queries;
  fm_selection *selections = decode->selections;
  FM_TRY(check_presence(params));
  FM_TRY(fm_check_sparse_step(call, params->flags, params->max_seqlen_q, decode));
  FM_TRY(check_selection(call, KV_CACHE, params->kv_format, queries, &selections[FM_MAIN]));
  if (params->extra_kv_cache != NULL)
    FM_TRY(check_selection(call, EXTRA_KV_CACHE, params->extra_kv_format, queries, &selections[FM_EXTRA]));
  call->empty = fm_is_empty(&decode->attention.work);
  decode->attention.own_plan = params->plan == NULL;
  decode->attention.work.apart = call->cuda && needs_two_kernels(selections);
  return call->cuda ? fm_check_sparse_step_on_cuda(decode) : FLASHMLA_OK;
}

/* Kernels hold the distance of rows and the number of a slot in 32 bits. */
static flashmla_status check_pages_on_cuda(const fm_call *call) {
  for (int32_t row = KV_CACHE; row <= EXTRA_KV_CACHE; row += EXTRA_KV_CACHE - KV_CACHE) {
    const DLTensor *tensor = fm_tensor_at(&call->tensors, row, 0);
    if (tensor == NULL) continue;
    const char *name = call->tensors.rows[row].name;
    const int64_t stride = call->views[row].stride[1];
    if (stride > INT32_MAX / (tensor->dtype.bits / 8))
      return fm_fail(FLASHMLA_ERROR_OVERFLOW, "%s.strides[1] is %lld; on CUDA it must be < 2^31 bytes", name,
                     (long long)stride);
    const int64_t slots = tensor->shape[0] * tensor->shape[1];
    if (slots > INT32_MAX)
      return fm_fail(FLASHMLA_ERROR_OVERFLOW, "%s has room for %lld tokens; on CUDA there must be < 2^31", name,
                     (long long)slots);
  }
  return FLASHMLA_OK;
}

static flashmla_status check_values(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_sparse_decode *decode = state;
  fm_selection *selections = decode->selections;
  FM_TRY(fm_check_scale(params->flags, params->softmax_scale, &decode->attention.queries));
  decode->num_threads = params->num_threads;
  fm_read_results(call, result_rows, params->flags, &decode->attention);
  if (call->cuda) FM_TRY(check_pages_on_cuda(call));
  fm_strides_from_batch(call->views[FM_INDICES].stride, call->form.varlen, selections[FM_MAIN].stride);
  fm_strides_from_batch(call->views[FM_EXTRA_INDICES].stride, call->form.varlen, selections[FM_EXTRA].stride);
  return FLASHMLA_OK;
}

static fm_given_plan given_plan(const fm_call *call, const fm_sparse_decode *decode) {
  return fm_sparse_plan(decode, ((const params_type *)(const void *)call->params)->plan);
}

static flashmla_status lay_out_step(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  FM_TRY(fm_tile_sparse_step(call, decode));
  return fm_lay_out_attention(call, &decode->attention);
}

static flashmla_status lay_out(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  const fm_given_plan given = given_plan(call, decode);
  FM_TRY(fm_use_plan(&given, call, &decode->attention));
  if (call->empty) return FLASHMLA_OK;
  return fm_lay_out_sparse_step(call, decode->selections[FM_MAIN].kv_format, decode, lay_out_step);
}

static flashmla_status bind(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_sparse_decode *decode = state;
  fm_attention *attention = &decode->attention;
  fm_selection *selections = decode->selections;
  const fm_given_plan given = given_plan(call, decode);
  if (call->again) FM_TRY(fm_use_plan_again(&given, call, attention));
  fm_bind_sparse_lengths(call, decode);
  fm_bind_results(call, result_rows, attention);
  fm_bind_pages(call, KV_CACHE, &selections[FM_MAIN].pages);
  if (params->extra_kv_cache != NULL) fm_bind_pages(call, EXTRA_KV_CACHE, &selections[FM_EXTRA].pages);
  selections[FM_MAIN].pages.descale = call->views[DESCALE_K].data;
  selections[FM_EXTRA].pages.descale = call->views[EXTRA_DESCALE_K].data;
  selections[FM_MAIN].indices = call->views[FM_INDICES].data;
  selections[FM_EXTRA].indices = call->views[FM_EXTRA_INDICES].data;
  fm_bind_schedule(params->workspace, attention);
  decode->stream = params->stream;
  return FLASHMLA_OK;
}

static void describe(const fm_call *call, const void *state, fm_facts *facts) {
  const fm_sparse_decode *decode = state;
  const fm_work *work = &decode->attention.work;
  const int32_t *lengths[FM_SELECTIONS] = {work->lengths, work->extra_lengths};
  (void)call;
  fm_describe_attention(&decode->attention, facts);
  facts->record.kv_format = decode->selections[FM_MAIN].kv_format;
  for (int32_t i = 0; i < FM_SELECTIONS; ++i) {
    const fm_selection *selection = &decode->selections[i];
    if (selection->topk > 0)
      facts->items[i] =
          fm_attended_items(&decode->attention, lengths[i], selection->topk, fm_token_bytes_of(&selection->pages));
  }
}

static const flashmla_kernel_info cpu_kernels[] = {
    [FM_BF16] = {.name = "sparse_decode_bf16_cpu", .operation = "sparse_decode", .dtype = "bfloat16", .target = "cpu"},
    [FM_FP16] = {.name = "sparse_decode_fp16_cpu", .operation = "sparse_decode", .dtype = "float16", .target = "cpu"},
    [FM_FP32] = {.name = "sparse_decode_fp32_cpu", .operation = "sparse_decode", .dtype = "float32", .target = "cpu"}};

static const uint16_t ends[] = {FM_END(params_type, stream), FM_END(params_type, plan), FM_END(params_type, descale_k),
                                FM_END(params_type, extra_descale_k), FM_END(params_type, q_rope)};

static const fm_operation sparse_decode = {
    .name = "sparse_decode",
    .params = FM_STRUCT("params", params_type, ends),
    .flags = FM_SPARSE_FLAGS,
    .threads_offset = offsetof(params_type, num_threads),
    .arguments = arguments,
    .num_arguments = ROWS,
    .axes = fm_sparse_axes,
    .num_axes = FM_SPARSE_AXES,
    .scratch = "workspace",
    .scratch_offset = offsetof(params_type, workspace),
    .scratch_size_offset = offsetof(params_type, workspace_size),
    .stream_offset = offsetof(params_type, stream),
    .state_size = sizeof(fm_sparse_decode),
    .read_form = read_form,
    .check_shapes = check_shapes,
    .check_values = check_values,
    .lay_out = lay_out,
    .bind = bind,
    .describe = describe,
    .cuda = &fm_sparse_decode_cuda,
    .cpu = &fm_sparse_decode_cpu,
    .cpu_kernels = cpu_kernels,
    .num_cpu_kernels = sizeof cpu_kernels / sizeof cpu_kernels[0],
};
FM_REGISTER(sparse_decode, params_type, arguments, fm_sparse_axes);

flashmla_status flashmla_sparse_decode_workspace_size(const flashmla_sparse_decode_params *params, uint64_t *bytes) {
  fm_sparse_decode decode;
  return fm_query_size(&sparse_decode, params, &decode, bytes);
}

flashmla_status flashmla_sparse_decode(const flashmla_sparse_decode_params *params) {
  fm_sparse_decode decode;
  return fm_run(&sparse_decode, params, &decode, NULL);
}

flashmla_status flashmla_sparse_decode_prepare(const flashmla_sparse_decode_params *params,
                                               flashmla_prepared **prepared) {
  return fm_prepare(&sparse_decode, params, prepared);
}

flashmla_status flashmla_sparse_decode_run(const flashmla_prepared *prepared,
                                           const flashmla_sparse_decode_params *params) {
  fm_sparse_decode decode;
  return fm_run_prepared(&sparse_decode, prepared, params, &decode, NULL);
}
