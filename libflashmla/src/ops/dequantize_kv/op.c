/* op.c - dequantize_kv: the tokens of a cache as rows, in the order of their slots. */
#include "formats/read.h"

typedef flashmla_dequantize_kv_params params_type;
enum { ROWS = FM_READ_DESCALE + 1, AXES = FM_READ_COLUMNS + 1 };

static const fm_axis axes[AXES] = {FM_SHARED_AXES, FM_PAGES_AXES, FM_READ_AXES_OF_OUT};

static const fm_argument arguments[ROWS] = {
    [FM_READ_PAGES] = {FM_PAGES_FIELDS(params_type, kv_cache)},
    [FM_READ_OUT] = {FM_READ_OUT_FIELDS(params_type)},
    [FM_READ_DESCALE] = {FM_DESCALE_FIELDS(params_type, descale_k)},
};

static flashmla_status read_form(const void *given, fm_form *form) {
  const params_type *params = given;
  return fm_add_format("kv_format", params->kv_format, FM_MAIN_PAGES, form);
}

static flashmla_status check_shapes(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_read *read = state;
  FM_TRY(fm_check_read(call, params->kv_format, params->num_threads, read));
  if (read->num_tokens > fm_slots_of(&read->pages))
    return fm_fail(FLASHMLA_ERROR_SHAPE, "out.shape[0] (num_tokens) is %d; kv_cache has %d * %d slots",
                   read->num_tokens, read->pages.num_blocks, read->pages.page_size);
  return FLASHMLA_OK;
}

static flashmla_status bind(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_bind_read(call, params->stream, state);
  return FLASHMLA_OK;
}

static const flashmla_kernel_info cpu_kernels[] = {
    {.name = "dequantize_kv_cpu", .operation = "dequantize_kv", .dtype = "any", .target = "cpu"}};

static const uint16_t ends[] = {FM_END(params_type, stream), FM_END(params_type, descale_k)};

static const fm_operation dequantize_kv = {
    .name = "dequantize_kv",
    .params = FM_STRUCT("params", params_type, ends),
    .threads_offset = offsetof(params_type, num_threads),
    .arguments = arguments,
    .num_arguments = ROWS,
    .axes = axes,
    .num_axes = AXES,
    .stream_offset = offsetof(params_type, stream),
    .state_size = sizeof(fm_read),
    .read_form = read_form,
    .check_shapes = check_shapes,
    .bind = bind,
    .describe = fm_describe_read,
    .cuda = &fm_dequantize_kv_cuda,
    .cpu = &fm_dequantize_kv_cpu,
    .cpu_kernels = cpu_kernels,
    .num_cpu_kernels = sizeof cpu_kernels / sizeof cpu_kernels[0],
};
FM_REGISTER(dequantize_kv, params_type, arguments, axes);

flashmla_status flashmla_dequantize_kv(const flashmla_dequantize_kv_params *params) {
  fm_read read;
  return fm_run(&dequantize_kv, params, &read, NULL);
}

flashmla_status flashmla_dequantize_kv_prepare(const flashmla_dequantize_kv_params *params,
                                               flashmla_prepared **prepared) {
  return fm_prepare(&dequantize_kv, params, prepared);
}

flashmla_status flashmla_dequantize_kv_run(const flashmla_prepared *prepared,
                                           const flashmla_dequantize_kv_params *params) {
  fm_read read;
  return fm_run_prepared(&dequantize_kv, prepared, params, &read, NULL);
}
