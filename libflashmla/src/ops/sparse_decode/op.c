/* op.c - sparse_decode: its descriptor, rules between its fields, and its entry points. */
#include "attention/cpu_run.h"
#include "ops/sparse_decode/sparse_decode.h"

typedef flashmla_sparse_decode_params params_type;
enum { TOPK = FM_ROWS_AXES, D_QK, EXTRA_BLOCKS, EXTRA_SIZE, EXTRA_ROW, EXTRA_TOPK, D_V, OFFSETS, AXES };
enum {
  Q,
  KV_CACHE,
  INDICES,
  TOPK_LENGTH,
  ATTN_SINK,
  EXTRA_KV_CACHE,
  EXTRA_INDICES,
  EXTRA_TOPK_LENGTH,
  CU_SEQLENS_Q,
  OUT,
  LSE,
  ROWS
};
static const fm_result_rows result_rows = {.q = Q, .out = OUT, .lse = LSE, .sink = ATTN_SINK};

static const fm_axis axes[AXES] = {
    FM_SHARED_AXES,
    FM_PAGES_AXES,
    [TOPK] = {"topk", true},
    [D_QK] = {"d_qk", false},
    [EXTRA_BLOCKS] = {"extra_num_blocks", false},
    [EXTRA_SIZE] = {"extra_page_size", false},
    [EXTRA_ROW] = {"extra_row", false},
    [EXTRA_TOPK] = {"extra_topk", true},
    [D_V] = {"d_v", false},
    [OFFSETS] = {"batch + 1", false},
};

#define FM_INDICES_FIELDS(field, count)                                       \
  FM_FIELD(params_type, field), .rank = 3, .axes = {FM_BATCH, FM_S_Q, count}, \
      .dtypes = FM_ONLY(FM_INT32) | FM_ONLY(FM_INT64), .alignment = sizeof(int32_t), .of_queries = true
#define FM_LENGTHS_FIELDS(field, axis)                                                                                \
  FM_FIELD(params_type, field), .rank = 1, .axes = {axis}, .dtypes = FM_ONLY(FM_INT32), .alignment = sizeof(int32_t), \
      .optional = true

static const fm_argument arguments[ROWS] = {
    [Q] = {FM_FIELD(params_type, q), .rank = 4, .axes = {FM_BATCH, FM_S_Q, FM_H_Q, D_QK}, .dtypes = FM_ANY_FLOAT,
           .alignment = FM_VECTOR_BYTES, .mapped = true, .of_queries = true},
    [KV_CACHE] = {FM_PAGES_FIELDS(params_type, kv_cache)},
    [INDICES] = {FM_INDICES_FIELDS(indices, TOPK)},
    [TOPK_LENGTH] = {FM_LENGTHS_FIELDS(topk_length, FM_BATCH)},
    [ATTN_SINK] = {FM_SINK_FIELDS(params_type, attn_sink)},
    [EXTRA_KV_CACHE] = {FM_PAGES_OF(params_type, extra_kv_cache, FM_EXTRA_PAGES, EXTRA_BLOCKS, EXTRA_SIZE, EXTRA_ROW),
                        .optional = true},
    [EXTRA_INDICES] = {FM_INDICES_FIELDS(extra_indices, EXTRA_TOPK), .optional = true},
    [EXTRA_TOPK_LENGTH] = {FM_LENGTHS_FIELDS(extra_topk_length, FM_BATCH)},
    [CU_SEQLENS_Q] = {FM_LENGTHS_FIELDS(cu_seqlens_q, OFFSETS), .offsets = true},
    [OUT] = {FM_OUT_FIELDS(params_type, out, D_V), .dtypes = FM_ONLY(FM_FP32), .like = FM_LIKE(Q), .written = true},
    [LSE] = {FM_LSE_FIELDS(params_type, lse), .written = true, .optional = true},
};

static flashmla_status add_form(const char *field, int32_t kv_format, uint8_t pages, fm_form *form) {
  const fm_format *format;
  FM_TRY(fm_find_format(field, kv_format, &format));
  if (fm_quantizes(format)) form->packed |= pages;
  return FLASHMLA_OK;
}

static flashmla_status read_form(const void *given, fm_form *form) {
  const params_type *params = given;
  if (params->reserved != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.reserved is %u; it must be 0", params->reserved);
  FM_TRY(fm_check_queries(params->cu_seqlens_q, params->max_seqlen_q, form));
  FM_TRY(add_form("kv_format", params->kv_format, FM_MAIN_PAGES, form));
  FM_TRY(add_form("extra_kv_format", params->extra_kv_format, FM_EXTRA_PAGES, form));
  if (params->extra_kv_cache == NULL && params->extra_kv_format != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}extra_kv_format is %d; without extra_kv_cache it must be {0|None}",
                   params->extra_kv_format);
  return FLASHMLA_OK;
}

static flashmla_status check_presence(const params_type *params) {
  if (params->extra_kv_cache != NULL && params->extra_indices == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "extra_indices is {NULL|None}; with extra_kv_cache it is required");
  if (params->extra_kv_cache == NULL && params->extra_indices != NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "extra_kv_cache is {NULL|None}; with extra_indices it is required");
  if (params->extra_kv_cache == NULL && params->extra_topk_length != NULL)
    return fm_fail(FLASHMLA_ERROR_VALUE, "extra_topk_length is given; without extra_kv_cache it must be left out");
  return FLASHMLA_OK;
}

/* With variable-length queries no tensor but optional ones has the axis. */
static flashmla_status check_batch(const fm_call *call, int32_t *batch) {
  *batch = call->extents[FM_BATCH];
  if (!call->form.varlen) return FLASHMLA_OK;
  const int32_t offsets = call->extents[OFFSETS];
  for (int32_t row = TOPK_LENGTH; row <= EXTRA_TOPK_LENGTH; row += EXTRA_TOPK_LENGTH - TOPK_LENGTH)
    if (call->tensors.given[row] != NULL && offsets - 1 != *batch)
      return fm_fail(FLASHMLA_ERROR_SHAPE,
                     "cu_seqlens_q.shape[0] is %d, %s.shape[0] (batch) is %d; cu_seqlens_q.shape[0] must be batch + 1",
                     offsets, call->tensors.rows[row].name, *batch);
  *batch = offsets - 1;
  return FLASHMLA_OK;
}

/* A cache of rows that fit q. */
static flashmla_status check_selection(const fm_call *call, int32_t row, int32_t kv_format, const fm_queries *queries,
                                       fm_selection *selection) {
  const char *name = call->tensors.rows[row].name;
  fm_pages *pages = &selection->pages;
  const int32_t indices = row == KV_CACHE ? INDICES : EXTRA_INDICES;
  FM_TRY(fm_check_pages(call, row, kv_format, pages));
  const fm_format *format = pages->format;
  if (pages->columns != queries->d_qk)
    return fm_fail(FLASHMLA_ERROR_SHAPE, "q.shape[%d] (d_qk) is %d; a row of %s in format \"%s\" has %d columns",
                   call->tensors.rows[Q].rank - 1, queries->d_qk, name, format->name, pages->columns);
  if (fm_quantizes(format) && queries->dtype != FM_BF16)
    return fm_fail(FLASHMLA_ERROR_DTYPE, "q.dtype is %s; with %s in format \"%s\" it must be bfloat16",
                   fm_dtype_name((int32_t)queries->dtype), name, format->name);
  if (!fm_quantizes(format) && queries->dtype != pages->dtype)
    return fm_fail(FLASHMLA_ERROR_DTYPE, "%s.dtype is %s, q.dtype is %s; they must be equal in format \"%s\"", name,
                   fm_dtype_name((int32_t)pages->dtype), fm_dtype_name((int32_t)queries->dtype), format->name);
  selection->kv_format = kv_format;
  selection->topk = call->extents[row == KV_CACHE ? TOPK : EXTRA_TOPK];
  selection->wide = fm_dtype_of(fm_tensor_at(&call->tensors, indices, 0)->dtype) == FM_INT64;
  return FLASHMLA_OK;
}

/* Items are numbered in 32 bits, each selection from the begin of a unit on. */
static flashmla_status set_items(const fm_selection selections[FM_SELECTIONS], fm_work *work) {
  const int32_t topk = selections[FM_MAIN].topk, extra_topk = selections[FM_EXTRA].topk;
  if ((int64_t)topk + extra_topk > INT32_MAX - FM_KERNEL_UNIT)
    return fm_fail(FLASHMLA_ERROR_OVERFLOW,
                   "indices has topk %d and extra_indices extra_topk %d; together they must be at most %d", topk,
                   extra_topk, INT32_MAX - FM_KERNEL_UNIT);
  work->own_items = true;
  work->capacity = topk;
  work->extra_capacity = extra_topk;
  return FLASHMLA_OK;
}

static flashmla_status check_cuda_support(const fm_call *call, const fm_sparse_decode *decode) {
  const fm_queries *queries = &decode->attention.queries;
  const fm_pages *main = &decode->selections[FM_MAIN].pages, *extra = &decode->selections[FM_EXTRA].pages;
  if (queries->dtype != FM_BF16)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.dtype is %s; supported on CUDA is bfloat16",
                   fm_dtype_name((int32_t)queries->dtype));
  if (decode->attention.d_v != FM_KERNEL_MOST_D_V)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.shape[%d] (d_qk) is %d; supported on CUDA are those with d_v %d",
                   call->tensors.rows[Q].rank - 1, queries->d_qk, FM_KERNEL_MOST_D_V);
  if (extra->format != NULL && extra->format != main->format)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED,
                   "extra_kv_cache is in format \"%s\", kv_cache in \"%s\"; supported on CUDA are equal ones",
                   extra->format->name, main->format->name);
  if (decode->attention.work.batch_invariant)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED,
                   "{params.flags has FLASHMLA_BATCH_INVARIANT|batch_invariant is True}; sparse_decode supports that "
                   "on the CPU alone");
  return FLASHMLA_OK;
}

static flashmla_status check_shapes(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_sparse_decode *decode = state;
  fm_attention *attention = &decode->attention;
  int32_t batch;
  FM_TRY(check_presence(params));
  FM_TRY(check_batch(call, &batch));
  attention->own_plan = true;
  attention->work = fm_work_of(call, batch, params->flags, params->max_seqlen_q);
  if (attention->work.h_q > FM_SPARSE_MOST_HEADS)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.shape[%d] (h_q) is %d; supported are at most %d",
                   call->tensors.rows[Q].rank - 2, attention->work.h_q, FM_SPARSE_MOST_HEADS);
  FM_TRY(fm_check_geometry(call, Q, call->extents[D_V], attention));
  fm_selection *selections = decode->selections;
  FM_TRY(check_selection(call, KV_CACHE, params->kv_format, &attention->queries, &selections[FM_MAIN]));
  if (params->extra_kv_cache != NULL)
    FM_TRY(check_selection(call, EXTRA_KV_CACHE, params->extra_kv_format, &attention->queries, &selections[FM_EXTRA]));
  FM_TRY(set_items(selections, &attention->work));
  call->empty = fm_is_empty(&attention->work);
  return call->cuda ? check_cuda_support(call, decode) : FLASHMLA_OK;
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
  fm_strides_from_batch(call->views[INDICES].stride, call->form.varlen, selections[FM_MAIN].stride);
  fm_strides_from_batch(call->views[EXTRA_INDICES].stride, call->form.varlen, selections[FM_EXTRA].stride);
  return FLASHMLA_OK;
}

static flashmla_status lay_out(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  fm_attention *attention = &decode->attention;
  fm_limits limits;
  if (call->empty) return FLASHMLA_OK;
  if (call->cuda)
    FM_TRY(fm_sparse_decode_cuda_limits(call, &limits));
  else
    fm_cpu_limits(&attention->work, &limits);
  FM_TRY(fm_tile(&attention->work, limits, attention->d_v, &attention->tiling));
  FM_TRY(fm_lay_out(&attention->work, &attention->tiling, attention->d_v, attention->own_plan, &attention->layout));
  call->scratch_bytes = attention->layout.workspace_bytes;
  return FLASHMLA_OK;
}

static flashmla_status bind(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_sparse_decode *decode = state;
  fm_attention *attention = &decode->attention;
  fm_selection *selections = decode->selections;
  fm_bind_results(call, result_rows, attention);
  attention->work.lengths = call->views[TOPK_LENGTH].data;
  attention->work.extra_lengths = call->views[EXTRA_TOPK_LENGTH].data;
  attention->work.cu_seqlens_q = call->views[CU_SEQLENS_Q].data;
  fm_bind_pages(call, KV_CACHE, &selections[FM_MAIN].pages);
  if (params->extra_kv_cache != NULL) fm_bind_pages(call, EXTRA_KV_CACHE, &selections[FM_EXTRA].pages);
  selections[FM_MAIN].indices = call->views[INDICES].data;
  selections[FM_EXTRA].indices = call->views[EXTRA_INDICES].data;
  attention->schedule = fm_schedule_in(params->workspace, &attention->tiling, &attention->layout);
  attention->partials = fm_partials_in(params->workspace, &attention->layout);
  decode->stream = params->stream;
  return FLASHMLA_OK;
}

static const flashmla_kernel_info cpu_kernels[] = {
    [FM_BF16] = {.name = "sparse_decode_bf16_cpu", .operation = "sparse_decode", .dtype = "bfloat16", .target = "cpu"},
    [FM_FP16] = {.name = "sparse_decode_fp16_cpu", .operation = "sparse_decode", .dtype = "float16", .target = "cpu"},
    [FM_FP32] = {.name = "sparse_decode_fp32_cpu", .operation = "sparse_decode", .dtype = "float32", .target = "cpu"}};

static const uint16_t ends[] = {FM_END(params_type, stream)};

static const fm_operation sparse_decode = {
    .name = "sparse_decode",
    .params = FM_STRUCT("params", params_type, ends),
    .flags = FLASHMLA_DEFAULT_SCALE | FLASHMLA_LSE_BASE2 | FLASHMLA_EMPTY_LSE_MINUS | FLASHMLA_BATCH_INVARIANT,
    .threads_offset = offsetof(params_type, num_threads),
    .arguments = arguments,
    .num_arguments = ROWS,
    .axes = axes,
    .num_axes = AXES,
    .scratch = "workspace",
    .scratch_offset = offsetof(params_type, workspace),
    .scratch_size_offset = offsetof(params_type, workspace_size),
    .state_size = sizeof(fm_sparse_decode),
    .read_form = read_form,
    .check_shapes = check_shapes,
    .check_values = check_values,
    .lay_out = lay_out,
    .bind = bind,
    .cuda = &fm_sparse_decode_cuda,
    .cpu = &fm_sparse_decode_cpu,
    .cpu_kernels = cpu_kernels,
    .num_cpu_kernels = sizeof cpu_kernels / sizeof cpu_kernels[0],
};
FM_REGISTER(sparse_decode, params_type, arguments, axes);

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
