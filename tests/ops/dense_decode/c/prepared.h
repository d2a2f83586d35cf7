/* prepared.h - prepared calls of dense_decode, and one change to a run that must be refused. */
#ifndef PREPARED_H_
#define PREPARED_H_

#include "refused.h"

enum { NO_PLAN = -1 };

/* How a call is made, beside its geometry. */
typedef struct form {
  geometry g;
  int32_t device;     /* a DLDeviceType */
  int32_t num_splits; /* of its plan, or NO_PLAN */
  uint32_t flags;
  int shard, no_lse;
} form;

static inline void init(fixture *f, form form) {
  fixture_init(f, form.g);
  fixture_set_device(f, form.device, 0);
  f->decode.flags = form.flags;
  if (form.no_lse) f->decode.lse = NULL;
  if (form.shard) {
    f->decode.cp_rank = 1;
    f->decode.cp_world = f->decode.cp_interleave = 4;
    f->decode.global_seqlens = &f->tensor[GLOBAL_SEQLENS];
  }
  if (form.num_splits != NO_PLAN)
    fixture_use_plan(f, form.num_splits);
  else
    fixture_allocate_workspace(f);
}

/* A prepared call, all of whose arguments are gone. */
static inline flashmla_prepared *prepared_of(form form) {
  fixture *f = malloc(sizeof *f);
  CHECK(f != NULL);
  init(f, form);
  fake_launches();
  fake.prepares = 0;
  flashmla_prepared *prepared = NULL;
  CHECK_OK(flashmla_dense_decode_prepare(&f->decode, &prepared));
  CHECK(prepared != NULL && fake_launches() == 0 && fake.prepares == (form.device == kDLCUDA));
  CHECK(fixture_outputs_untouched(f));
  fixture_free(f);
  free(f);
  fake.prepares = 0;
  return prepared;
}

/* One change to `call`, which is that of another fixture of the form, or to what it names. */
#define REFUSED_RUN(form, status, part, change)                                              \
  do {                                                                                       \
    flashmla_prepared *prepared = prepared_of(form);                                         \
    fixture f;                                                                               \
    init(&f, form);                                                                          \
    flashmla_dense_decode_params call = f.decode;                                            \
    change;                                                                                  \
    fake_launches();                                                                         \
    fake.prepares = 0;                                                                       \
    CHECK_STATUS(flashmla_dense_decode_run(prepared, &call), FLASHMLA_ERROR_##status, part); \
    no_run(&f);                                                                              \
    flashmla_prepared_free(prepared);                                                        \
    fixture_free(&f);                                                                        \
  } while (0)
#define PLAIN ((form){SMALL, kDLCPU, NO_PLAN, .flags = 0})
#define PLANNED ((form){SMALL, kDLCPU, 3, .flags = 0})
#define SHARDED ((form){SMALL, kDLCUDA, NO_PLAN, .shard = 1, .no_lse = 1})
#define VARLEN ((form){SMALL_VARLEN, kDLCPU, NO_PLAN, .flags = 0})

#endif /* PREPARED_H_ */
