/* texts.c - see texts.h. */
#include "core/texts.h"

#include <stdlib.h>
#include <string.h>

const char *fm_keep_in(fm_texts *texts, const char *text, bool *is_new) {
  fm_kept *first = atomic_load(texts), *made = NULL;
  const fm_kept *looked_at = NULL; /* with those behind it */
  *is_new = true;
  do {
    for (const fm_kept *known = first; known != looked_at; known = known->next)
      if (strcmp(known->chars, text) == 0) {
        free(made);
        *is_new = false;
        return known->chars;
      }
    if (made == NULL && (made = malloc(sizeof *made + strlen(text) + 1)) == NULL) return NULL;
    strcpy(made->chars, text);
    made->next = first;
    looked_at = first;
  } while (!atomic_compare_exchange_weak(texts, &first, made));
  return made->chars;
}
