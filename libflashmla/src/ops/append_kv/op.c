/* op.c - append_kv: new tokens into the pages of a KV cache. */
#include "formats/write.h"

typedef flashmla_append_kv_params params_type;
enum { ROWS = FM_WRITE_SLOTS + 1 };

static const fm_axis axes[FM_WRITE_AXES] = {FM_SHARED_AXES, FM_PAGES_AXES, FM_TOKENS_AXES};

static const fm_argument arguments[ROWS] = {
    [FM_WRITE_PAGES] = {FM_PAGES_FIELDS(params_type, kv_cache), .written = true},
    [FM_WRITE_LATENT] = {FM_LATENT_FIELDS(params_type)},
    [FM_WRITE_ROPE] = {FM_ROPE_FIELDS(params_type)},
    [FM_WRITE_DESCALE] = {FM_DESCALE_FIELDS(params_type, descale_k)},
    [FM_WRITE_SLOTS] = {FM_FIELD(params_type, slot_mapping), .rank = 1, .axes = {FM_TOKENS},
                        .dtypes = FM_ONLY(FM_INT32) | FM_ONLY(FM_INT64), .alignment = sizeof(int32_t),
                        .free_innermost = true},
};

static fm_write_scalars scalars_of(const void *given) {
  const params_type *params = given;
  return (fm_write_scalars){params->flags, params->kv_format, params->num_threads};
}

static flashmla_status read_form(const void *given, fm_form *form) { return fm_write_form(scalars_of(given), form); }

static flashmla_status check_shapes(fm_call *call, void *state) {
  fm_write *write = state;
  write->wide_slots = fm_dtype_of(fm_tensor_at(&call->tensors, FM_WRITE_SLOTS, 0)->dtype) == FM_INT64;
  return fm_check_write(call, scalars_of(call->params), write);
}

static flashmla_status bind(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_write *write = state;
  fm_bind_write(call, params->stream, write);
  const fm_view *slots = &call->views[FM_WRITE_SLOTS];
  write->slots = slots->data;
  if (!call->again)
    write->slots_step = slots->stride[0] * (int64_t)(write->wide_slots ? sizeof(int64_t) : sizeof(int32_t));
  return FLASHMLA_OK;
}

static const flashmla_kernel_info cpu_kernels[] = {
    {.name = "append_kv_cpu", .operation = "append_kv", .dtype = "any", .target = "cpu"}};

static const uint16_t ends[] = {FM_END(params_type, stream), FM_END(params_type, descale_k)};

static const fm_operation append_kv = {
    .name = "append_kv",
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
    .cuda = &fm_append_kv_cuda,
    .cpu = &fm_append_kv_cpu,
    .cpu_kernels = cpu_kernels,
    .num_cpu_kernels = sizeof cpu_kernels / sizeof cpu_kernels[0],
};
FM_REGISTER(append_kv, params_type, arguments, axes);

flashmla_status flashmla_append_kv(const flashmla_append_kv_params *params) {
  fm_write write;
  return fm_run(&append_kv, params, &write, NULL);
}

flashmla_status flashmla_append_kv_prepare(const flashmla_append_kv_params *params, flashmla_prepared **prepared) {
  return fm_prepare(&append_kv, params, prepared);
}

flashmla_status flashmla_append_kv_run(const flashmla_prepared *prepared, const flashmla_append_kv_params *params) {
  fm_write write;
  return fm_run_prepared(&append_kv, prepared, params, &write, NULL);
}
