/* validate_merge.c - every rule on the arguments of merge_states, in the order of validate.c. Parts that were listed
 * one by one are checked one after the other, each together with the first part and the outputs. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tensor.h"
#include "try.h"

enum { FIRST_OUT, PART_OUT, PART_LSE, OUT, LSE, TENSORS };

static const fm_argument batched[TENSORS] = {
    [FIRST_OUT] = {.rank = 4, .axes = {FM_BATCH, FM_S_Q, FM_H_Q, FM_D_V}, .alignment = 16},
    [PART_OUT] = {.rank = 4, .axes = {FM_BATCH, FM_S_Q, FM_H_Q, FM_D_V}, .alignment = 16},
    [PART_LSE] =
        {.rank = 3, .axes = {FM_BATCH, FM_H_Q, FM_S_Q}, .element = FM_FLOAT32, .alignment = 4, .free_innermost = true},
    [OUT] = {.name = "out",
             .rank = 4,
             .axes = {FM_BATCH, FM_S_Q, FM_H_Q, FM_D_V},
             .element = FM_ANY_FLOAT,
             .alignment = 16,
             .written = true},
    [LSE] = FM_LSE_OUTPUT,
};

enum { WIDTH = 8 /* elements of a row that are read at once */ };

typedef struct part_names {
  char out[24], lse[24];
} part_names;

/* The form of the call: which axes the tensors have. */
typedef struct merge_form {
  bool stacked, varlen;
} merge_form;

/* The row of a tensor that holds all parts. */
static fm_argument stack(fm_argument argument) {
  memmove(&argument.axes[1], &argument.axes[0], sizeof argument.axes[0] * (size_t)argument.rank);
  argument.axes[0] = FM_NUM_STATES;
  ++argument.rank;
  return argument;
}

static void list_arguments(merge_form form, const part_names *first, const part_names *part,
                           fm_argument arguments[TENSORS]) {
  for (int32_t i = 0; i < TENSORS; ++i) {
    arguments[i] = form.varlen ? fm_drop_batch(batched[i]) : batched[i];
    if (form.stacked && i <= PART_LSE) arguments[i] = stack(arguments[i]);
  }
  arguments[FIRST_OUT].name = first->out;
  arguments[PART_OUT].name = part->out;
  arguments[PART_LSE].name = part->lse;
}

static part_names name_part(const flashmla_merge_states_params *params, int32_t part) {
  part_names names = {"outs", "lses"};
  if (params->num_states == 0) return names;
  snprintf(names.out, sizeof names.out, "outs[%d]", part);
  snprintf(names.lse, sizeof names.lse, "lses[%d]", part);
  return names;
}

static flashmla_status check_params(const flashmla_merge_states_params *params) {
  const uint32_t known = FLASHMLA_LSE_BASE2 | FLASHMLA_EMPTY_LSE_MINUS;
  if ((params->flags & ~known) != 0)
    return fm_fail(FLASHMLA_ERROR_FLAGS, "params.flags is 0x%x; only bits of 0x%x are known", params->flags, known);
  if (params->num_states < 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.num_states is %d; it must be >= 0", params->num_states);
  if (params->num_states > FM_MAX_CPU_STATES)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED,
                   "params.num_states is %d; supported are up to %d separate tensors: stack them in one",
                   params->num_states, FM_MAX_CPU_STATES);
  if (params->outs == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "outs is NULL; the tensors are required");
  if (params->lses == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "lses is NULL; the tensors are required");
  if (params->num_threads < 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.num_threads is %d; it must be >= 0", params->num_threads);
  if (params->out == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "out is NULL; the tensor is required");
  if (params->out->ndim != 4 && params->out->ndim != 3)
    return fm_fail(FLASHMLA_ERROR_SHAPE, "out.ndim is %d; it must be 4, or 3 with variable-length queries",
                   params->out->ndim);
  return FLASHMLA_OK;
}

/* The rules on tensors but for their memory; fills what *merge says of shapes, dtypes and device. */
static flashmla_status check_tensors(const fm_argument *arguments, const DLTensor *const *tensors, fm_merge *merge) {
  int32_t extents[FM_EXTENTS] = {[FM_BATCH] = 1, [FM_NUM_STATES] = merge->num_states};
  FM_TRY(fm_check_presence(arguments, tensors, TENSORS));
  FM_TRY(fm_check_dtypes(arguments, tensors, TENSORS));
  FM_TRY(fm_check_devices(arguments, tensors, TENSORS));
  FM_TRY(fm_check_extents(arguments, tensors, TENSORS, extents));
  const bool varlen = arguments[OUT].rank == 3;
  merge->dtype = fm_float_of(tensors[FIRST_OUT]);
  merge->out_dtype = fm_float_of(tensors[OUT]);
  merge->cuda = (int32_t)tensors[OUT]->device.device_type == kDLCUDA;
  merge->device_id = tensors[OUT]->device.device_id;
  merge->batch = extents[FM_BATCH];
  merge->s_q = extents[varlen ? FM_TOTAL_Q : FM_S_Q];
  merge->h_q = extents[FM_H_Q];
  merge->d_v = extents[FM_D_V];
  merge->num_states = extents[FM_NUM_STATES];
  int32_t rows;
  if (__builtin_mul_overflow(merge->batch, merge->s_q, &rows) || __builtin_mul_overflow(rows, merge->h_q, &rows))
    return fm_fail(FLASHMLA_ERROR_OVERFLOW, "out has %d * %d * %d rows; there must be fewer than 2^31", merge->batch,
                   merge->s_q, merge->h_q);
  if (merge->d_v % WIDTH != 0)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "out.shape[%d] (d_v) is %d; supported are multiples of %d",
                   arguments[OUT].rank - 1, merge->d_v, WIDTH);
  return FLASHMLA_OK;
}

/* One tensor of values and one of lses: a part, all parts, or the result. */
static flashmla_status view_state(const fm_argument *arguments, const DLTensor *const *tensors, merge_form form,
                                  bool empty, fm_state *state, int64_t *out_state_stride, int64_t *lse_state_stride) {
  fm_view out, lse = {NULL, {0}};
  FM_TRY(fm_view_tensor(&arguments[0], tensors[0], empty, &out));
  if (tensors[1] != NULL) FM_TRY(fm_view_tensor(&arguments[1], tensors[1], empty, &lse));
  *out_state_stride = out.stride[0];
  *lse_state_stride = lse.stride[0];
  state->out = out.data;
  state->lse = lse.data;
  fm_strides_from_batch(&out.stride[form.stacked], form.varlen, state->out_stride);
  fm_strides_from_batch(&lse.stride[form.stacked], form.varlen, state->lse_stride);
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
static flashmla_status arrange(fm_merge *merge, const fm_state *states) {
  int64_t out_bytes, lse_bytes;
  if (evenly_spaced(states, merge->num_states, &out_bytes, &lse_bytes)) {
    merge->stacked = true;
    merge->out_state_stride = out_bytes / (merge->dtype == FM_FP32 ? 4 : 2);
    merge->lse_state_stride = lse_bytes / (int64_t)sizeof(float);
  } else if (merge->cuda && merge->num_states > FM_MAX_STATES) {
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED,
                   "params.num_states is %d; supported on CUDA are up to %d separate tensors: stack them in one",
                   merge->num_states, FM_MAX_STATES);
  }
  return FLASHMLA_OK;
}

flashmla_status fm_check_merge(const flashmla_merge_states_params *params, fm_state states[FM_MAX_CPU_STATES],
                               fm_merge *merge) {
  FM_TRY(check_params(params));
  const merge_form form = {.stacked = params->num_states == 0, .varlen = params->out->ndim == 3};
  const int32_t listed = form.stacked ? 1 : params->num_states;
  *merge = (fm_merge){.num_states = listed,
                      .stacked = form.stacked,
                      .states = states,
                      .lse_base2 = (params->flags & FLASHMLA_LSE_BASE2) != 0,
                      .empty_lse = (params->flags & FLASHMLA_EMPTY_LSE_MINUS) != 0 ? -INFINITY : INFINITY,
                      .num_threads = params->num_threads,
                      .stream = params->stream};
  fm_argument arguments[TENSORS];
  const part_names first = name_part(params, 0);
  for (int32_t i = 0; i < listed; ++i) {
    const part_names part = name_part(params, i);
    const DLTensor *const tensors[TENSORS] = {params->outs[0], params->outs[i], params->lses[i], params->out,
                                              params->lse};
    list_arguments(form, &first, &part, arguments);
    FM_TRY(check_tensors(arguments, tensors, merge));
    const bool empty = merge->batch == 0 || merge->s_q == 0;
    FM_TRY(view_state(&arguments[PART_OUT], &tensors[PART_OUT], form, empty, &states[i], &merge->out_state_stride,
                      &merge->lse_state_stride));
    if (i > 0) continue;
    int64_t none;
    FM_TRY(view_state(&arguments[OUT], &tensors[OUT], (merge_form){.varlen = form.varlen}, empty, &merge->result, &none,
                      &none));
  }
  return form.stacked ? FLASHMLA_OK : arrange(merge, states);
}
