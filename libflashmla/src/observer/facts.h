/* facts.h - what a call is, for who looks on: its shape, and the bytes and FLOP that it needs. An operation tells what
 * its tensors do not (fm_operation.describe); everything else follows from the table of its arguments. */
#ifndef FLASHMLA_OBSERVER_FACTS_H_
#define FLASHMLA_OBSERVER_FACTS_H_

#include "core/item_kinds.h"
#include "core/operation.h"

/* KV items that a call reads: for each request as many as its length, at least 0 and at most `capacity`. */
typedef struct fm_items_read {
  const int32_t *lengths; /* where the call's memory is; NULL: `capacity` each */
  int32_t requests;
  int64_t capacity;
  int64_t bytes, flop; /* of an item */
} fm_items_read;

struct fm_facts {
  flashmla_call_record record;
  fm_items_read items[FM_ITEM_KINDS]; /* requests 0: there are none */
};

/* Operation, shape and dtype as text: "dense_decode batch=2 s_q=1 ...". It is cut off where there is no more room. */
void fm_name_call(const fm_call *call, char *name, size_t size);
/* Of a call that succeeded; bytes and FLOP still without items. */
void fm_describe_call(const fm_call *call, const void *state, fm_facts *facts);
/* Adds the items: with lengths in host memory at `lengths`, one array behind the other; NULL: by capacity. */
void fm_add_items(fm_facts *facts, const int32_t *const lengths[FM_ITEM_KINDS]);

#endif /* FLASHMLA_OBSERVER_FACTS_H_ */
