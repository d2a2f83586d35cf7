/* fake_backend.h - stands in for both backends: computes nothing, records what it was given. With it the core is tested
 * on its own, CUDA rules included, and a test sees that a refused call launched nothing. */
#ifndef FAKE_BACKEND_H_
#define FAKE_BACKEND_H_

#include "ops/dense_decode/dense_decode.h"
#include "ops/merge_states/merge_states.h"

typedef struct fake_backend {
  fm_limits limits;       /* of both backends */
  flashmla_status answer; /* of prepare, on CUDA devices */
  int prepares;           /* on CUDA devices; the other counts are of launches */
  int cuda_plans, cuda_decodes, cuda_merges, cpu_plans, cpu_decodes, cpu_merges;
  bool again; /* fm_call.again of the last launch */
  /* What the last launch was given, by operation. */
  fm_dense_decode plan, decode;
  fm_merge merge;
  fm_state states[FM_MAX_CPU_STATES]; /* what merge.states held */
} fake_backend;

extern fake_backend fake;

/* Launches of all kinds since the last call of this. */
int fake_launches(void);

#endif /* FAKE_BACKEND_H_ */
