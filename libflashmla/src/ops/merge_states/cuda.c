/* cuda.c - merge_states on a GPU. */
#include <string.h>

#include "attention/cuda.h"
#include "core/arith.h"
#include "ops/merge_states/merge_states.h"

#define WARP 32 /* threads, which merge a row */
#define BLOCKS_A_PROCESSOR 2
#define LOG2_E 1.4426950408889634f

static const fm_param list[] = FM_MERGE_STATES_PARAMS;

/* Where the fields of part i are in the list: addresses of out, of lse, then six strides a part (out's by batch, token,
 * head, lse's likewise). */
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

static fm_merge_states_kernel_params params_of(const fm_merge *m) {
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
                                          .rows = m->batch * m->s_q * m->h_q,
                                          .s_q = m->s_q,
                                          .h_q = m->h_q,
                                          .chunks = m->d_v / FM_MERGE_COLUMNS,
                                          .result_dtype = (int32_t)m->out_dtype,
                                          .to_log2 = m->lse_base2 ? 1.0f : LOG2_E,
                                          .lse_factor = m->lse_base2 ? 1.0f : FM_LN_2,
                                          .empty_lse = m->empty_lse};
  for (int i = 0; i < (m->stacked ? 1 : m->num_states); i++) put_state(&params, i, &m->states[i]);
  return params;
}

static flashmla_status prepare(fm_call *call, void *state) {
  fm_merge *m = state;
  FM_TRY(fm_gpu_open("outs.device.device_id", call->device_id, &m->gpu));
  const fm_need need = {.family = FM_KERNEL_MERGE_STATES, .elements = {.out = (int8_t)m->dtype}};
  return fm_load(m->gpu, need, &m->kernel);
}

static flashmla_status launch(fm_call *call, void *state) {
  const fm_merge *m = state;
  const fm_merge_states_kernel_params params = params_of(m);
  const int32_t most = BLOCKS_A_PROCESSOR * m->gpu.device->processors;
  const int32_t blocks = (int32_t)fm_min64(fm_ceil_div(params.rows, m->kernel.kernel->threads / WARP), most);
  (void)call;
  return fm_launch_alone(m->gpu, &m->kernel, blocks, &params, m->stream);
}

const fm_backend fm_merge_states_cuda = {prepare, launch};
