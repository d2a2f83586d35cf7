/* merge_states.h - a checked call of merge_states. */
#ifndef FLASHMLA_OPS_MERGE_STATES_H_
#define FLASHMLA_OPS_MERGE_STATES_H_

#include "core/operation.h"
#include "cuda/launch.h"

enum {
  FM_MAX_STATES = FM_KERNEL_MAX_STATES, /* listed one by one on CUDA: kernel parameters */
  FM_MAX_CPU_STATES = 1024,             /* on the CPU */
  FM_FEW_STATES = 16,                   /* lie in the call itself */
  FM_MERGE_COLUMNS = 8                  /* of a row, which are read at once; it has a multiple of them */
};

/* Rows of values with their log-sum-exps, strides in elements. */
typedef struct fm_state {
  const void *out;
  int64_t out_stride[3]; /* batch, token, head */
  const float *lse;
  int64_t lse_stride[3];         /* batch, head, token */
  fm_reach out_reach, lse_reach; /* of their views */
} fm_state;

/* Part i's elements are at out[i] / lse[i]. Without the batch axis batch is 1 and s_q total_q. */
typedef struct fm_merge {
  fm_dtype dtype, out_dtype; /* of the parts, of the result */
  int32_t batch, s_q, h_q, d_v;
  int32_t num_states;
  bool stacked;                               /* states[0] alone, part i lies i * state_stride elements further */
  int64_t out_state_stride, lse_state_stride; /* may be 0 or negative where the parts were listed */
  int32_t listed;                             /* states that were given: 1, or num_states */
  fm_state *states;                           /* of those: `few`, or memory of its own */
  fm_state few[FM_FEW_STATES];
  fm_state result; /* written; lse NULL: not wanted */
  bool lse_base2;
  float empty_lse;
  int32_t num_threads;
  void *stream;
  /* GPU */
  fm_gpu gpu;
  fm_loaded kernel;
} fm_merge;

extern const fm_backend fm_merge_states_cuda, fm_merge_states_cpu;

#endif /* FLASHMLA_OPS_MERGE_STATES_H_ */
