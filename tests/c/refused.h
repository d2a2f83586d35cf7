/* refused.h - one change to a valid call, the status and the sentence it must bring, nothing run or written. */
#ifndef REFUSED_H_
#define REFUSED_H_

#include "check.h"
#include "fake_backend.h"
#include "fixture.h"

static inline void no_run(const fixture *f) {
  CHECK(fake_launches() == 0 && fake.prepares == 0);
  CHECK(fixture_outputs_untouched(f));
}

#define REFUSED_OF(geometry, device, status, part, change)        \
  do {                                                            \
    fixture f;                                                    \
    fixture_init(&f, geometry);                                   \
    fixture_set_device(&f, device, 0);                            \
    change;                                                       \
    CHECK_STATUS(flashmla_dense_decode(&f.decode), status, part); \
    no_run(&f);                                                   \
    fixture_free(&f);                                             \
  } while (0)
#define REFUSED(status, part, change) REFUSED_OF(SMALL, kDLCPU, FLASHMLA_ERROR_##status, part, change)
#define REFUSED_VARLEN(status, part, change) REFUSED_OF(SMALL_VARLEN, kDLCPU, FLASHMLA_ERROR_##status, part, change)
#define REFUSED_ON_CUDA(status, part, change) REFUSED_OF(SMALL, kDLCUDA, FLASHMLA_ERROR_##status, part, change)
/* The CUDA rule does not hold on the CPU. */
#define ONLY_ON_CUDA(status, part, change) \
  REFUSED_ON_CUDA(status, part, change);   \
  ACCEPTED(change)

#define ACCEPTED_OF(geometry, device, change)         \
  do {                                                \
    fixture f;                                        \
    fixture_init(&f, geometry);                       \
    fixture_set_device(&f, device, 0);                \
    change;                                           \
    CHECK_OK(flashmla_dense_decode(&f.decode));       \
    CHECK(fake.cpu_decodes + fake.cuda_decodes == 1); \
    fake_launches();                                  \
    fake.prepares = 0;                                \
    fixture_free(&f);                                 \
  } while (0)
#define ACCEPTED(change) ACCEPTED_OF(SMALL, kDLCPU, change)
#define ACCEPTED_VARLEN(change) ACCEPTED_OF(SMALL_VARLEN, kDLCPU, change)
#define ACCEPTED_ON_CUDA(change) ACCEPTED_OF(SMALL, kDLCUDA, change)

/* The plan call is refused and the plan stays as it was. */
#define PLAN_REFUSED_OF(geometry, status, part, change)                                         \
  do {                                                                                          \
    fixture f;                                                                                  \
    fixture_init(&f, geometry);                                                                 \
    memset(&f.plan, OUTPUT_FILL, sizeof f.plan);                                                \
    const flashmla_plan before = f.plan;                                                        \
    change;                                                                                     \
    CHECK_STATUS(flashmla_plan_decode(&f.plan_params, &f.plan), FLASHMLA_ERROR_##status, part); \
    CHECK(memcmp(&before, &f.plan, sizeof before) == 0);                                        \
    no_run(&f);                                                                                 \
    fixture_free(&f);                                                                           \
  } while (0)
#define PLAN_REFUSED(status, part, change) PLAN_REFUSED_OF(SMALL, status, part, change)

#endif /* REFUSED_H_ */
