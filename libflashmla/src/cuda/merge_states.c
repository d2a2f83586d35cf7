/* merge_states.c - joins partial results on a GPU. */
#include <string.h>

#include "arith.h"
#include "cuda/launch.h"
#include "try.h"

#define WARPS 8 /* of a block; a warp merges a row */
#define BLOCKS_A_PROCESSOR 2
#define COLUMNS 8 /* of a lane at once */
#define LN_2 0.69314718055994531f
#define LOG2_E 1.4426950408889634f

static const fm_param list[] = FM_MERGE_STATES_PARAMS;

/* Where the fields of part i are in the list: addresses of out, of lse, then six strides a part (out's by batch, token,
 * head, lse's likewise). */
_Static_assert(FM_KERNEL_MAX_STATES == FM_MAX_STATES, "the kernel takes as many parts as the checks let through");
enum { OUTS = 0, LSES = FM_MAX_STATES, STRIDES = 2 * FM_MAX_STATES, STRIDES_OF_PART = 6 };

static void put(fm_merge_states_kernel_params *params, int field, const void *value) {
  memcpy((char *)params + list[field].offset, value, list[field].size);
}

static void put_state(fm_merge_states_kernel_params *params, int part, const fm_state *state) {
  const int64_t strides[STRIDES_OF_PART] = {state->out_stride[0], state->out_stride[1], state->out_stride[2],
                                            state->lse_stride[0], state->lse_stride[2], state->lse_stride[1]};
  put(params, OUTS + part, &state->out);
  put(params, LSES + part, &state->lse);
  for (int i = 0; i < STRIDES_OF_PART; i++) put(params, STRIDES + STRIDES_OF_PART * part + i, &strides[i]);
}

static flashmla_status run_merge(const fm_launcher *l, const fm_merge *m) {
  const int64_t rows = (int64_t)m->batch * m->s_q * m->h_q;
  if (rows > INT32_MAX)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED,
                   "out.shape is (batch %d, s_q %d, h_q %d); on a CUDA device there must be fewer than 2^31 rows",
                   m->batch, m->s_q, m->h_q);
  fm_loaded kernel;
  FM_TRY(fm_launcher_load(l, (fm_need){.operation = FM_MERGE_STATES, .dtype = (int32_t)m->dtype}, &kernel));
  fm_merge_states_kernel_params params = {.result = (void *)(uintptr_t)m->result.out,
                                          .result_lse = (float *)(uintptr_t)m->result.lse,
                                          .result_stride_b = m->result.out_stride[0],
                                          .result_stride_s = m->result.out_stride[1],
                                          .result_stride_h = m->result.out_stride[2],
                                          .result_lse_stride_b = m->result.lse_stride[0],
                                          .result_lse_stride_h = m->result.lse_stride[1],
                                          .result_lse_stride_s = m->result.lse_stride[2],
                                          .out_state_stride = m->out_state_stride,
                                          .lse_state_stride = m->lse_state_stride,
                                          .num_states = m->num_states,
                                          .stacked = m->stacked,
                                          .rows = (int32_t)rows,
                                          .s_q = m->s_q,
                                          .h_q = m->h_q,
                                          .chunks = m->d_v / COLUMNS,
                                          .result_dtype = (int32_t)m->out_dtype,
                                          .to_log2 = m->lse_base2 ? 1.0f : LOG2_E,
                                          .lse_factor = m->lse_base2 ? 1.0f : LN_2,
                                          .empty_lse = m->empty_lse};
  for (int i = 0; i < (m->stacked ? 1 : m->num_states); i++) put_state(&params, i, &m->states[i]);
  const int64_t blocks = fm_min64(fm_ceil_div(rows, WARPS), (int64_t)BLOCKS_A_PROCESSOR * l->device.processors);
  FM_LAUNCH(l, &kernel, (unsigned)blocks, &params, list);
  fm_set_last_kernel(kernel.kernel->name);
  return FLASHMLA_OK;
}

flashmla_status fm_cuda_merge_states(const fm_merge *merge) {
  fm_launcher launcher;
  FM_TRY(fm_launcher_begin(&launcher, "out.device.device_id", merge->device_id, merge->stream));
  const flashmla_status status = run_merge(&launcher, merge);
  fm_launcher_end(&launcher);
  return status;
}
