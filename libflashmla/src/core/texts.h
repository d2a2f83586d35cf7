/* texts.h - lists of texts that live for ever, each once. They have no lock, which a child that is forked while another
 * thread has it would find taken. */
#ifndef FLASHMLA_CORE_TEXTS_H_
#define FLASHMLA_CORE_TEXTS_H_

#include <stdatomic.h>
#include <stdbool.h>

typedef struct fm_kept {
  struct fm_kept *next;
  char chars[];
} fm_kept;
typedef _Atomic(fm_kept *) fm_texts;

/* The text as the list has it, and whether it was not there before. NULL: no memory, and it is new. */
const char *fm_keep_in(fm_texts *texts, const char *text, bool *is_new);

#endif /* FLASHMLA_CORE_TEXTS_H_ */
