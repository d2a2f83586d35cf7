/* fake_backend.h - stands in for both backends: computes nothing, records what it was given. With it the core is tested
 * on its own, CUDA rules included, and a test sees that a refused call launched nothing. */
#ifndef FAKE_BACKEND_H_
#define FAKE_BACKEND_H_

#include "ops/dense_decode/dense_decode.h"

typedef struct fake_backend {
  fm_limits limits;       /* of both backends */
  flashmla_status answer; /* of prepare, on CUDA devices */
  int prepares;           /* on CUDA devices; the other counts are of launches */
  int cuda_plans, cuda_decodes, cpu_plans, cpu_decodes;
  int cuda_others, cpu_others; /* of operations whose own tests have the stand-in */
  bool again;                  /* fm_call.again of the last launch */
  /* What the last launch was given, by operation. */
  fm_dense_decode plan, decode;
} fake_backend;

extern fake_backend fake;

/* For stand-ins: a backend's prepare, which leaves a handle in the state, and its launch, which finds it there, counts
 * itself in `count` and says that `kernel` ran. */
flashmla_status fake_prepare(const fm_call *call, CUkernel *handle);
flashmla_status fake_launch(const fm_call *call, CUkernel handle, int *count, const char *kernel);

/* Launches of all kinds since the last call of this. */
int fake_launches(void);

#endif /* FAKE_BACKEND_H_ */
