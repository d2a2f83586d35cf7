/* fake_backend.h - stands in for both backends: computes nothing, records what it was given. With it the core is tested
 * on its own, CUDA rules included, and a test sees that a refused call launched nothing. */
#ifndef FAKE_BACKEND_H_
#define FAKE_BACKEND_H_

#include "ops/dense_decode/dense_decode.h"

typedef struct fake_backend {
  fm_limits limits;                /* of both backends */
  int32_t driver;                  /* its version */
  flashmla_status answer;          /* of prepare, on CUDA devices */
  int prepares;                    /* on CUDA devices; the other counts are of launches */
  int cuda_launches, cpu_launches; /* of all operations */
  int cuda_plans, cuda_decodes, cpu_plans, cpu_decodes;
  bool again; /* fm_call.again of the last launch */
  /* What the last launch was given, by operation. */
  fm_dense_decode plan, decode;
} fake_backend;

extern fake_backend fake;

/* Launches of all kinds since the last call of this. */
int fake_launches(void);

/* For the stand-ins of other operations, in tests/ops/<operation>/c/fake_*.c: what their prepare and launch do.
 * `count`: of such launches, or NULL; `kernel`: the name of what ran. */
flashmla_status fake_prepare(const fm_call *call, CUkernel *handle);
flashmla_status fake_launched(const fm_call *call, CUkernel handle, int *count, const char *kernel);

#endif /* FAKE_BACKEND_H_ */
