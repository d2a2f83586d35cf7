/* exchange.h - a call on tensor objects while it is made. */
#ifndef FLASHMLA_CORE_EXCHANGE_H_
#define FLASHMLA_CORE_EXCHANGE_H_

#include <stdbool.h>

#include "flashmla/flashmla.h"

/* Params may be those of a newer header: longer than this library knows them. */
enum { FM_FEW_TENSORS = 14 /* lie in the call itself */, FM_MAX_OBJECT_RANK = 8, FM_MAX_GIVEN_BYTES = 512 };

/* What a step answers besides FLASHMLA_OK and the library's statuses. */
enum { FM_UNUSUAL = FLASHMLA_EXCHANGE_UNUSUAL, FM_RAISED = -2, FM_NO_SCRATCH = -3 };

/* An object as a tensor. Copies: the objects' own extents may change while the lock is given up. */
typedef struct fm_taken {
  DLTensor tensor;
  int64_t shape[FM_MAX_OBJECT_RANK], strides[FM_MAX_OBJECT_RANK];
} fm_taken;

typedef struct fm_object_call {
  const flashmla_exchange *how;
  const DLPackExchangeAPI *table;
  void *const *objects;
  int32_t num_tensors;
  bool has_scratch;
  uint32_t hold;         /* bits of the conditions that need not be looked at for each tensor */
  int64_t scratch_bytes; /* needed, and not to be had here */
  void *result;
  const DLTensor *model; /* the first tensor: its device is the call's */
  /* One of each for every object: those below, or memory of its own behind `taken`. */
  fm_taken *taken;
  const DLTensor **lists;
  fm_taken few[FM_FEW_TENSORS];
  const DLTensor *few_lists[FM_FEW_TENSORS];
  _Alignas(16) unsigned char params[FM_MAX_GIVEN_BYTES];
} fm_object_call;

static inline void *fm_param_of(fm_object_call *c, uint32_t offset) { return c->params + offset; }

/* What the runtime of the binding's language does for us. */
extern flashmla_host fm_host;

/* exchange_objects.c. The conditions on the call; finds out which of those on tensors hold for all. */
int fm_check_conditions(fm_object_call *c);
/* Fills params from the objects, as they are now. */
int fm_take_objects(fm_object_call *c);

#endif /* FLASHMLA_CORE_EXCHANGE_H_ */
