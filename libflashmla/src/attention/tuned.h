/* tuned.h - what a tuning file says of an attention call, and where that needs more room than the caller gave. */
#ifndef FLASHMLA_ATTENTION_TUNED_H_
#define FLASHMLA_ATTENTION_TUNED_H_

#include "attention/attention.h"
#include "core/operation.h"

/* Of a call what its work does not say. */
typedef struct fm_tuned_call {
  const char *operation; /* that attends: a plan's is that of its calls */
  int32_t q;             /* the row of q */
  int32_t page_size;     /* 0: it makes no difference */
  int32_t kv_format;     /* -1: not known */
} fm_tuned_call;

/* Sets attention->tuned. Nothing is said of calls on the CPU, of batch-invariant ones, whose bits must not follow from
 * a file, and of work apart. */
void fm_look_up_tuned(const fm_call *call, const fm_tuned_call *facts, fm_attention *attention);

/* lay_out with what was found, or without where the caller's buffer has no room for that. A size query tells what is
 * enough for both, so that a buffer is large enough whichever file is loaded or forgotten later. A number of splits
 * that is given, by the caller or with a plan, stays. */
flashmla_status fm_lay_out_tuned(fm_call *call, void *state, fm_attention *attention, fm_hook *lay_out);

#endif /* FLASHMLA_ATTENTION_TUNED_H_ */
