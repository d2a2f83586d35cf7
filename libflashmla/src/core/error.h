/* error.h - how a failure is told: a status, and a sentence that this thread remembers. */
#ifndef FLASHMLA_CORE_ERROR_H_
#define FLASHMLA_CORE_ERROR_H_

#include "core/text.h"
#include "flashmla/flashmla.h"

/* Stores the sentence for this thread and returns `status`. Where C and Python name a thing differently the format says
 * both, "{params.|}num_splits is %d", and the sentence has the name of the binding that makes the call. */
flashmla_status fm_fail(flashmla_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same choice in a text that goes into a sentence. */
fm_text fm_named(const char *both);
/* The names that sentences of this thread have from now on, by the flags of the call: FLASHMLA_PYTHON_NAMES. */
void fm_use_names(uint32_t flags);
/* Remembers the kernel name for flashmla_last_kernel; `name` must be static. */
void fm_set_last_kernel(const char *name);

/* Passes a failure on to the caller. */
#define FM_TRY(call)                                        \
  do {                                                      \
    const flashmla_status fm_try_status = (call);           \
    if (fm_try_status != FLASHMLA_OK) return fm_try_status; \
  } while (0)

#endif /* FLASHMLA_CORE_ERROR_H_ */
