/* op.c - merge_states: its descriptor, the rules its table does not say, and its entry points. */
#include <stdlib.h>
#include <string.h>

#include "attention/attention.h"
#include "ops/merge_states/merge_states.h"

typedef flashmla_merge_states_params params_type;
enum { OUTS, LSES, OUT, LSE, ROWS };
enum { D_V = FM_OWN_AXES, AXES };

static const fm_axis axes[AXES] = {FM_SHARED_AXES, [D_V] = {"d_v", false}};

static const fm_argument arguments[ROWS] = {
    [OUTS] = {FM_OUT_FIELDS(params_type, outs, D_V), .dtypes = FM_ANY_FLOAT, .listed = true},
    [LSES] = {FM_LSE_FIELDS(params_type, lses), .listed = true},
    [OUT] = {FM_OUT_FIELDS(params_type, out, D_V), .dtypes = FM_ANY_FLOAT, .written = true},
    [LSE] = {FM_LSE_FIELDS(params_type, lse), .written = true, .optional = true},
};

static flashmla_status read_form(const void *given, fm_form *form) {
  const params_type *params = given;
  if (params->num_states < 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.num_states is %d; it must be >= 0", params->num_states);
  if (params->num_states > FM_MAX_CPU_STATES)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED,
                   "{params.num_states is|the tensors of outs are} %d; supported are up to %d separate tensors: stack "
                   "them in one",
                   params->num_states, FM_MAX_CPU_STATES);
  if (params->out == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "out is {NULL|None}; the tensor is required");
  if (params->out->ndim != 4 && params->out->ndim != 3) {
    fm_argument varlen[FM_MAX_ARGUMENTS];
    fm_arguments_in((fm_form){.varlen = true, .listed = 1}, arguments, ROWS, varlen);
    return fm_fail(FLASHMLA_ERROR_SHAPE, "out.ndim is %d; it must be 4 %s, or 3 %s with variable-length queries",
                   params->out->ndim, fm_describe_axes(axes, &arguments[OUT]).chars,
                   fm_describe_axes(axes, &varlen[OUT]).chars);
  }
  form->varlen = params->out->ndim == 3;
  form->listed = params->num_states;
  return FLASHMLA_OK;
}

static flashmla_status check_shapes(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  const int32_t *extents = call->extents;
  fm_merge *merge = state;
  merge->dtype = fm_dtype_of(fm_tensor_at(&call->tensors, OUTS, 0)->dtype);
  merge->out_dtype = fm_dtype_of(params->out->dtype);
  merge->batch = call->form.varlen ? 1 : extents[FM_BATCH];
  merge->s_q = extents[call->form.varlen ? FM_TOTAL_Q : FM_S_Q];
  merge->h_q = extents[FM_H_Q];
  merge->d_v = extents[D_V];
  merge->stacked = params->num_states == 0;
  merge->num_states = merge->stacked ? extents[FM_NUM_STATES] : params->num_states;
  merge->listed = merge->stacked ? 1 : params->num_states;
  merge->lse_base2 = (params->flags & FLASHMLA_LSE_BASE2) != 0;
  merge->empty_lse = fm_empty_lse(params->flags);
  merge->num_threads = params->num_threads;
  call->empty = merge->batch == 0 || merge->s_q == 0;
  int32_t rows;
  if (__builtin_mul_overflow(merge->batch, merge->s_q, &rows) || __builtin_mul_overflow(rows, merge->h_q, &rows))
    return fm_fail(FLASHMLA_ERROR_OVERFLOW, "out has %d * %d * %d rows; there must be fewer than 2^31", merge->batch,
                   merge->s_q, merge->h_q);
  if (merge->d_v % FM_MERGE_COLUMNS != 0)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "out.shape[%d] (d_v) is %d; supported are multiples of %d",
                   call->tensors.rows[OUT].rank - 1, merge->d_v, FM_MERGE_COLUMNS);
  return FLASHMLA_OK;
}

/* Whether the listed parts lie as a stacked tensor would: one kernel parameter instead of many. */
static bool evenly_spaced(const fm_state *states, int32_t count, int64_t *out_bytes, int64_t *lse_bytes) {
  *out_bytes = count > 1 ? (int64_t)((uintptr_t)states[1].out - (uintptr_t)states[0].out) : 0;
  *lse_bytes = count > 1 ? (int64_t)((uintptr_t)states[1].lse - (uintptr_t)states[0].lse) : 0;
  for (int32_t i = 1; i < count; ++i) {
    const fm_state *state = &states[i], *before = &states[i - 1];
    if ((int64_t)((uintptr_t)state->out - (uintptr_t)before->out) != *out_bytes ||
        (int64_t)((uintptr_t)state->lse - (uintptr_t)before->lse) != *lse_bytes ||
        memcmp(state->out_stride, before->out_stride, sizeof state->out_stride) != 0 ||
        memcmp(state->lse_stride, before->lse_stride, sizeof state->lse_stride) != 0)
      return false;
  }
  return true;
}

/* Rule on the number of separate tensors, and the form in which a backend gets them. */
static flashmla_status arrange(const fm_call *call, fm_merge *merge) {
  int64_t out_bytes, lse_bytes;
  merge->stacked = evenly_spaced(merge->states, merge->num_states, &out_bytes, &lse_bytes);
  merge->out_state_stride = merge->stacked ? out_bytes / fm_dtype_bytes(merge->dtype) : 0;
  merge->lse_state_stride = merge->stacked ? lse_bytes / (int64_t)sizeof(float) : 0;
  if (call->cuda && !merge->stacked && merge->num_states > FM_MAX_STATES)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED,
                   "{params.num_states is|the tensors of outs are} %d; supported on CUDA are up to %d separate "
                   "tensors: stack them in one",
                   merge->num_states, FM_MAX_STATES);
  return FLASHMLA_OK;
}

/* Element i of the lists, or the tensors of all parts. */
static flashmla_status view_part(const fm_call *call, int32_t i, fm_merge *merge) {
  fm_view out, lse;
  FM_TRY(fm_view_tensor(&call->tensors, OUTS, i, call->empty, &out));
  FM_TRY(fm_view_tensor(&call->tensors, LSES, i, call->empty, &lse));
  const int stack = call->form.listed == 0;
  merge->out_state_stride = out.stride[0];
  merge->lse_state_stride = lse.stride[0];
  fm_state *part = &merge->states[i];
  part->out = out.data;
  part->lse = lse.data;
  part->out_reach = out.reach;
  part->lse_reach = lse.reach;
  fm_strides_from_batch(&out.stride[stack], call->form.varlen, part->out_stride);
  fm_strides_from_batch(&lse.stride[stack], call->form.varlen, part->lse_stride);
  return FLASHMLA_OK;
}

static flashmla_status make_room(fm_merge *merge) {
  const size_t count = (size_t)merge->listed;
  merge->states = count <= FM_FEW_STATES ? merge->few : malloc(sizeof(fm_state) * count);
  if (merge->states != NULL) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for %zu parts could not be allocated", count);
}

static flashmla_status check_values(fm_call *call, void *state) {
  fm_merge *merge = state;
  FM_TRY(make_room(merge));
  for (int32_t i = 0; i < merge->listed; ++i) FM_TRY(view_part(call, i, merge));
  fm_strides_from_batch(call->views[OUT].stride, call->form.varlen, merge->result.out_stride);
  fm_strides_from_batch(call->views[LSE].stride, call->form.varlen, merge->result.lse_stride);
  return call->form.listed > 0 ? arrange(call, merge) : FLASHMLA_OK;
}

/* The addresses that the parts of a prepared call have now. */
static flashmla_status read_parts_again(const fm_call *call, fm_merge *merge) {
  for (int32_t i = 0; i < merge->listed; ++i) {
    fm_state *part = &merge->states[i];
    void *out, *lse;
    FM_TRY(fm_view_address(&call->tensors, OUTS, i, part->out_reach, &out));
    FM_TRY(fm_view_address(&call->tensors, LSES, i, part->lse_reach, &lse));
    part->out = out;
    part->lse = lse;
  }
  return call->form.listed > 0 ? arrange(call, merge) : FLASHMLA_OK;
}

static flashmla_status bind(fm_call *call, void *state) {
  const params_type *params = (const void *)call->params;
  fm_merge *merge = state;
  if (call->again) FM_TRY(read_parts_again(call, merge));
  merge->result.out = call->views[OUT].data;
  merge->result.lse = call->views[LSE].data;
  merge->stream = params->stream;
  return FLASHMLA_OK;
}

static void release(void *state) {
  fm_merge *merge = state;
  if (merge->states != merge->few) free(merge->states);
  merge->states = NULL;
}

/* `states` still names that of the call that was copied. */
static flashmla_status adopt(void *state) {
  fm_merge *merge = state;
  const fm_state *theirs = merge->states;
  if (theirs == NULL) return FLASHMLA_OK; /* of an empty call */
  FM_TRY(make_room(merge));
  if (merge->states != merge->few) memcpy(merge->states, theirs, sizeof(fm_state) * (size_t)merge->listed);
  return FLASHMLA_OK;
}

static const flashmla_kernel_info cpu_kernels[] = {
    {.name = "merge_states_cpu", .operation = "merge_states", .dtype = "any", .target = "cpu"}};

static const uint16_t ends[] = {FM_END(params_type, stream)};

static const fm_operation merge_states = {
    .name = "merge_states",
    .params = FM_STRUCT("params", params_type, ends),
    .flags = FLASHMLA_LSE_BASE2 | FLASHMLA_EMPTY_LSE_MINUS,
    .threads_offset = offsetof(params_type, num_threads),
    .arguments = arguments,
    .num_arguments = ROWS,
    .axes = axes,
    .num_axes = AXES,
    .stream_offset = offsetof(params_type, stream),
    .state_size = sizeof(fm_merge),
    .read_form = read_form,
    .check_shapes = check_shapes,
    .check_values = check_values,
    .bind = bind,
    .release = release,
    .adopt = adopt,
    .cuda = &fm_merge_states_cuda,
    .cpu = &fm_merge_states_cpu,
    .cpu_kernels = cpu_kernels,
    .num_cpu_kernels = sizeof cpu_kernels / sizeof cpu_kernels[0],
};
FM_REGISTER(merge_states, params_type, arguments, axes);

flashmla_status flashmla_merge_states(const flashmla_merge_states_params *params) {
  fm_merge merge;
  return fm_run(&merge_states, params, &merge, NULL);
}

flashmla_status flashmla_merge_states_prepare(const flashmla_merge_states_params *params,
                                              flashmla_prepared **prepared) {
  return fm_prepare(&merge_states, params, prepared);
}

flashmla_status flashmla_merge_states_run(const flashmla_prepared *prepared,
                                          const flashmla_merge_states_params *params) {
  fm_merge merge;
  return fm_run_prepared(&merge_states, prepared, params, &merge, NULL);
}
