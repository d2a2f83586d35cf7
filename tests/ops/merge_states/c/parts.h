/* parts.h - a valid call of merge_states in host memory, for tests to change field by field. */
#ifndef PARTS_H_
#define PARTS_H_

#include "check.h"

enum { MOST = 1100, ROOM = 1 << 16 };

/* Parts of shape (2, 3, 4, 16) as views of one block, the result in two others. */
typedef struct parts {
  DLTensor out[MOST], lse[MOST], result_out, result_lse;
  const DLTensor *outs[MOST], *lses[MOST];
  int64_t out_shape[5], out_strides[5], lse_shape[4], lse_strides[4];
  int64_t result_shape[4], result_strides[4], result_lse_shape[3], result_lse_strides[3];
  flashmla_merge_states_params params;
} parts;

static _Alignas(64) unsigned char values[ROOM], lses[ROOM], result[ROOM], result_lses[ROOM];

enum { B = 2, S = 3, H = 4, D = 16, OUT_BYTES = B * S * H * D * 2, LSE_BYTES = B * H * S * 4 };

static inline void compact(int rank, const int64_t *shape, int64_t *strides) {
  int64_t elements = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    strides[axis] = elements;
    elements *= shape[axis];
  }
}

static inline DLTensor tensor(void *data, DLDataType dtype, int rank, int64_t *shape, int64_t *strides) {
  return (DLTensor){
      .data = data, .device = {kDLCPU, 0}, .ndim = rank, .dtype = dtype, .shape = shape, .strides = strides};
}

#define BF16 ((DLDataType){kDLBfloat, 16, 1})
#define FP16 ((DLDataType){kDLFloat, 16, 1})
#define FP32 ((DLDataType){kDLFloat, 32, 1})

/* `count` parts behind one another, or one stacked tensor of `stack`; `varlen`: without the batch axis. */
static inline void init(parts *p, int count, int stack, int varlen) {
  const int64_t out_shape[] = {stack, B, S, H, D}, lse_shape[] = {stack, B, H, S};
  const int64_t out_varlen[] = {stack, S, H, D}, lse_varlen[] = {stack, H, S};
  memset(p, 0, sizeof *p);
  const int rank = varlen ? 3 : 4, stacked = stack > 0;
  memcpy(p->out_shape, (varlen ? out_varlen : out_shape) + !stacked, sizeof(int64_t) * (size_t)(rank + stacked));
  memcpy(p->lse_shape, (varlen ? lse_varlen : lse_shape) + !stacked, sizeof(int64_t) * (size_t)(rank - 1 + stacked));
  memcpy(p->result_shape, (varlen ? out_varlen : out_shape) + 1, sizeof(int64_t) * (size_t)rank);
  memcpy(p->result_lse_shape, (varlen ? lse_varlen : lse_shape) + 1, sizeof(int64_t) * (size_t)(rank - 1));
  compact(rank + stacked, p->out_shape, p->out_strides);
  compact(rank - 1 + stacked, p->lse_shape, p->lse_strides);
  compact(rank, p->result_shape, p->result_strides);
  compact(rank - 1, p->result_lse_shape, p->result_lse_strides);
  for (int i = 0; i < count; ++i) {
    p->out[i] = tensor(values + i * OUT_BYTES % (ROOM - OUT_BYTES), BF16, rank + stacked, p->out_shape, p->out_strides);
    p->lse[i] =
        tensor(lses + i * LSE_BYTES % (ROOM - LSE_BYTES), FP32, rank - 1 + stacked, p->lse_shape, p->lse_strides);
    p->outs[i] = &p->out[i];
    p->lses[i] = &p->lse[i];
  }
  p->result_out = tensor(result, BF16, rank, p->result_shape, p->result_strides);
  p->result_lse = tensor(result_lses, FP32, rank - 1, p->result_lse_shape, p->result_lse_strides);
  p->params = (flashmla_merge_states_params)FLASHMLA_MERGE_STATES_PARAMS_INIT;
  p->params.outs = p->outs;
  p->params.lses = p->lses;
  p->params.num_states = stacked ? 0 : count;
  p->params.out = &p->result_out;
  p->params.lse = &p->result_lse;
}

static inline void set_device(parts *p, int32_t type) {
  for (int i = 0; i < MOST; ++i) p->out[i].device.device_type = p->lse[i].device.device_type = type;
  p->result_out.device.device_type = p->result_lse.device.device_type = type;
}

#endif /* PARTS_H_ */
