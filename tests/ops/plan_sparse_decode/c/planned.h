/* planned.h - plans for the calls of selections.h. */
#ifndef PLANNED_H_
#define PLANNED_H_

#include "../../sparse_decode/c/selections.h"

static _Alignas(64) unsigned char buffers[2][1 << 20];

/* The call of plan_sparse_decode for a call. */
static inline flashmla_plan_sparse_decode_params plan_params_of(const selections *s, int32_t num_splits) {
  flashmla_plan_sparse_decode_params params = FLASHMLA_PLAN_SPARSE_DECODE_PARAMS_INIT;
  params.flags = s->params.flags;
  params.q = s->params.q;
  params.indices = s->params.indices;
  params.topk_length = s->params.topk_length;
  params.extra_indices = s->params.extra_indices;
  params.extra_topk_length = s->params.extra_topk_length;
  params.cu_seqlens_q = s->params.cu_seqlens_q;
  params.max_seqlen_q = s->params.max_seqlen_q;
  params.num_splits = num_splits;
  params.buffer = buffers[0];
  params.buffer_size = sizeof buffers[0];
  return params;
}

static inline flashmla_plan plan_of(const selections *s, int32_t num_splits) {
  const flashmla_plan_sparse_decode_params params = plan_params_of(s, num_splits);
  flashmla_plan plan;
  CHECK_OK(flashmla_plan_sparse_decode(&params, &plan));
  return plan;
}

#endif /* PLANNED_H_ */
