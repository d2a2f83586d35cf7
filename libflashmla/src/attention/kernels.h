/* kernels.h - the kernels of an attention call on a GPU, which its state holds. */
#ifndef FLASHMLA_ATTENTION_KERNELS_H_
#define FLASHMLA_ATTENTION_KERNELS_H_

#include "cuda/launch.h"

typedef struct fm_attention_kernels {
  fm_gpu gpu;
  fm_loaded plan, attend, join; /* plan: of a call that makes a schedule; join: of one that may split tiles */
  CUtensorMap q_map;            /* q with a box of one row block: (d, head in group, token, KV head, request) */
} fm_attention_kernels;

#endif /* FLASHMLA_ATTENTION_KERNELS_H_ */
