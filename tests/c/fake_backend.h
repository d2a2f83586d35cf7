/* fake_backend.h - stands in for both backends: computes nothing, records what it was given. With it the core is tested
 * on its own, CUDA rules included, and a test sees that a refused call launched nothing. */
#ifndef FAKE_BACKEND_H_
#define FAKE_BACKEND_H_

#include "internal.h"

typedef struct fake_backend {
  fm_backend_limits limits; /* what fm_cuda_limits and fm_cpu_limits say */
  int cuda_plans, cuda_decodes, cpu_decodes, cuda_merges, cpu_merges;
  fm_run last;
  fm_merge last_merge;
  fm_state last_states[FM_MAX_CPU_STATES]; /* what last_merge.states held */
} fake_backend;

extern fake_backend fake;

#endif /* FAKE_BACKEND_H_ */
