/* op.c - gather_kv: the tokens of requests as rows behind one another. */
#include "formats/read.h"

typedef flashmla_gather_kv_params params_type;
enum { ROWS = FM_READ_SEQ_STARTS + 1 };

static const fm_axis axes[FM_READ_AXES] = {FM_SHARED_AXES, FM_PAGES_AXES, FM_READ_AXES_OF_OUT,
                                           [FM_READ_MAX_BLOCKS] = {"max_blocks", true},
                                           [FM_READ_OFFSETS] = {"batch + 1", false}};

#define FM_INTEGERS(field) \
  FM_FIELD(params_type, field), .dtypes = FM_ONLY(FM_INT32), .alignment = sizeof(int32_t), .rank = 1

static const fm_argument arguments[ROWS] = {
    [FM_READ_PAGES] = {FM_PAGES_FIELDS(params_type, kv_cache)},
    [FM_READ_OUT] = {FM_READ_OUT_FIELDS(params_type)},
    [FM_READ_DESCALE] = {FM_DESCALE_FIELDS(params_type, descale_k)},
    [FM_READ_BLOCK_TABLE] = {FM_FIELD(params_type, block_table), .rank = 2, .axes = {FM_BATCH, FM_READ_MAX_BLOCKS},
                             .dtypes = FM_ONLY(FM_INT32), .alignment = sizeof(int32_t)},
    [FM_READ_CU_SEQLENS] = {FM_INTEGERS(cu_seqlens), .axes = {FM_READ_OFFSETS}, .free_innermost = true},
    [FM_READ_SEQ_STARTS] = {FM_INTEGERS(seq_starts), .axes = {FM_BATCH}, .free_innermost = true, .optional = true},
};

static flashmla_status read_form(const void *given, fm_form *form) {
  const params_type *params = given;
  return fm_add_format("kv_format", params->kv_format, FM_MAIN_PAGES, form);
}

static flashmla_status check_shapes(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_read *read = state;
  FM_TRY(fm_check_read(call, params->kv_format, params->num_threads, read));
  read->batch = call->extents[FM_BATCH];
  read->max_blocks = call->extents[FM_READ_MAX_BLOCKS];
  if (call->extents[FM_READ_OFFSETS] - 1 != read->batch)
    return fm_fail(
        FLASHMLA_ERROR_SHAPE,
        "cu_seqlens.shape[0] is %d, block_table.shape[0] (batch) is %d; cu_seqlens.shape[0] must be batch + 1",
        call->extents[FM_READ_OFFSETS], read->batch);
  call->empty = call->empty || read->batch == 0;
  return FLASHMLA_OK;
}

static flashmla_status bind(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  static const int32_t no_table = 0; /* of a table without columns, which no token has a place in */
  const fm_view *table = &call->views[FM_READ_BLOCK_TABLE], *starts = &call->views[FM_READ_SEQ_STARTS],
                *offsets = &call->views[FM_READ_CU_SEQLENS];
  fm_read *read = state;
  fm_bind_read(call, params->stream, read);
  read->block_table = table->data != NULL ? table->data : &no_table;
  read->cu_seqlens = offsets->data;
  read->seq_starts = starts->data;
  if (!call->again) {
    read->block_table_stride = table->stride[0];
    read->cu_seqlens_stride = offsets->stride[0];
    read->seq_starts_stride = starts->stride[0];
  }
  return FLASHMLA_OK;
}

static const flashmla_kernel_info cpu_kernels[] = {
    {.name = "gather_kv_cpu", .operation = "gather_kv", .dtype = "any", .target = "cpu"}};

static const uint16_t ends[] = {FM_END(params_type, stream), FM_END(params_type, descale_k)};

static const fm_operation gather_kv = {
    .name = "gather_kv",
    .params = FM_STRUCT("params", params_type, ends),
    .threads_offset = offsetof(params_type, num_threads),
    .arguments = arguments,
    .num_arguments = ROWS,
    .axes = axes,
    .num_axes = FM_READ_AXES,
    .stream_offset = offsetof(params_type, stream),
    .state_size = sizeof(fm_read),
    .read_form = read_form,
    .check_shapes = check_shapes,
    .bind = bind,
    .describe = fm_describe_read,
    .cuda = &fm_gather_kv_cuda,
    .cpu = &fm_gather_kv_cpu,
    .cpu_kernels = cpu_kernels,
    .num_cpu_kernels = sizeof cpu_kernels / sizeof cpu_kernels[0],
};
FM_REGISTER(gather_kv, params_type, arguments, axes);

flashmla_status flashmla_gather_kv(const flashmla_gather_kv_params *params) {
  fm_read read;
  return fm_run(&gather_kv, params, &read, NULL);
}

flashmla_status flashmla_gather_kv_prepare(const flashmla_gather_kv_params *params, flashmla_prepared **prepared) {
  return fm_prepare(&gather_kv, params, prepared);
}

flashmla_status flashmla_gather_kv_run(const flashmla_prepared *prepared, const flashmla_gather_kv_params *params) {
  fm_read read;
  return fm_run_prepared(&gather_kv, prepared, params, &read, NULL);
}
