/* kernels.h - the kernels of an attention call on a GPU, which its state holds. */
#ifndef FLASHMLA_ATTENTION_KERNELS_H_
#define FLASHMLA_ATTENTION_KERNELS_H_

#include "cuda/launch.h"

typedef struct fm_attention_kernels {
  fm_gpu gpu;
  fm_loaded plan, attend, join; /* plan: of a call that makes a schedule; join: of one that may split tiles */
  /* The latent and the RoPE columns of queries, each with a box of one row block: (d, head in group, token, KV head,
   * request). The latter are not mapped where there are none. */
  CUtensorMap q_map, q_rope_map;
} fm_attention_kernels;

#endif /* FLASHMLA_ATTENTION_KERNELS_H_ */
