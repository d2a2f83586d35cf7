/* op.c - quantize_kv: rows of tokens to pages of a format, in their order. */
#include "formats/write.h"

typedef flashmla_quantize_kv_params params_type;
enum { ROWS = FM_WRITE_DESCALE + 1 };

static const fm_axis axes[FM_WRITE_AXES] = {FM_SHARED_AXES, FM_PAGES_AXES, FM_TOKENS_AXES};

static const fm_argument arguments[ROWS] = {
    [FM_WRITE_PAGES] = {FM_PAGES_FIELDS(params_type, out), .written = true},
    [FM_WRITE_LATENT] = {FM_LATENT_FIELDS(params_type)},
    [FM_WRITE_ROPE] = {FM_ROPE_FIELDS(params_type)},
    [FM_WRITE_DESCALE] = {FM_DESCALE_FIELDS(params_type, descale_k)},
};

static fm_write_scalars scalars_of(const void *given) {
  const params_type *params = given;
  return (fm_write_scalars){params->flags, params->kv_format, params->num_threads};
}

static flashmla_status read_form(const void *given, fm_form *form) {
  FM_TRY(fm_write_form(scalars_of(given), form));
  if (form->packed) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}kv_format is %s, which does not quantise",
                 fm_named("{FLASHMLA_KV_BF16|'bf16'}").chars);
}

static flashmla_status check_shapes(fm_call *call, void *state) {
  fm_write *write = state;
  FM_TRY(fm_check_write(call, scalars_of(call->params), write));
  if (write->num_tokens > fm_slots_of(&write->pages))
    return fm_fail(FLASHMLA_ERROR_SHAPE, "latent.shape[0] (num_tokens) is %d; out has %d * %d slots", write->num_tokens,
                   write->pages.num_blocks, write->pages.page_size);
  return FLASHMLA_OK;
}

static flashmla_status bind(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_bind_write(call, params->stream, state);
  return FLASHMLA_OK;
}

static const flashmla_kernel_info cpu_kernels[] = {
    {.name = "quantize_kv_cpu", .operation = "quantize_kv", .dtype = "any", .target = "cpu"}};

static const uint16_t ends[] = {FM_END(params_type, stream), FM_END(params_type, descale_k)};

static const fm_operation quantize_kv = {
    .name = "quantize_kv",
    .params = FM_STRUCT("params", params_type, ends),
    .flags = FLASHMLA_UNROUNDED_SCALES,
    .threads_offset = offsetof(params_type, num_threads),
    .arguments = arguments,
    .num_arguments = ROWS,
    .axes = axes,
    .num_axes = FM_WRITE_AXES,
    .stream_offset = offsetof(params_type, stream),
    .state_size = sizeof(fm_write),
    .read_form = read_form,
    .check_shapes = check_shapes,
    .bind = bind,
    .describe = fm_describe_write,
    .cuda = &fm_quantize_kv_cuda,
    .cpu = &fm_quantize_kv_cpu,
    .cpu_kernels = cpu_kernels,
    .num_cpu_kernels = sizeof cpu_kernels / sizeof cpu_kernels[0],
};
FM_REGISTER(quantize_kv, params_type, arguments, axes);

flashmla_status flashmla_quantize_kv(const flashmla_quantize_kv_params *params) {
  fm_write write;
  return fm_run(&quantize_kv, params, &write, NULL);
}

flashmla_status flashmla_quantize_kv_prepare(const flashmla_quantize_kv_params *params, flashmla_prepared **prepared) {
  return fm_prepare(&quantize_kv, params, prepared);
}

flashmla_status flashmla_quantize_kv_run(const flashmla_prepared *prepared, const flashmla_quantize_kv_params *params) {
  fm_write write;
  return fm_run_prepared(&quantize_kv, prepared, params, &write, NULL);
}
