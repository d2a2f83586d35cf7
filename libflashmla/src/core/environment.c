/* environment.c - see environment.h. */
#include "core/environment.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "flashmla/flashmla.h"

enum { MOST_BYTES = 512 /* of all that is wrong; more is cut off */ };

/* Begin and end of the section that FM_VARIABLE fills; the linker makes them, where there is a variable. */
extern const fm_variable *const __start_fm_variables[] FM_SECTION_EDGE __attribute__((weak));
extern const fm_variable *const __stop_fm_variables[] FM_SECTION_EDGE __attribute__((weak));

typedef struct kept {
  struct kept *next;
  char chars[];
} kept;
static kept *texts;
static pthread_mutex_t texts_lock = PTHREAD_MUTEX_INITIALIZER, reading = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(const char *) problems = "";

static const char *keep_locked(const char *text) {
  for (const kept *known = texts; known != NULL; known = known->next)
    if (strcmp(known->chars, text) == 0) return known->chars;
  kept *made = malloc(sizeof *made + strlen(text) + 1);
  if (made == NULL) return NULL;
  strcpy(made->chars, text);
  made->next = texts;
  texts = made;
  return made->chars;
}

const char *fm_keep_text(const char *text) {
  pthread_mutex_lock(&texts_lock);
  const char *found = keep_locked(text);
  pthread_mutex_unlock(&texts_lock);
  return found;
}

static void read_locked(void) {
  char found[MOST_BYTES] = "";
  for (const fm_variable *const *at = __start_fm_variables; at < __stop_fm_variables; ++at) {
    const char *value = getenv((*at)->name);
    fm_text problem = {""};
    (*at)->take(value != NULL && value[0] != '\0' ? value : NULL, &problem);
    const size_t used = strlen(found);
    if (problem.chars[0] != '\0')
      snprintf(found + used, sizeof found - used, "%s%s is \"%.64s\"%s", used > 0 ? "; " : "", (*at)->name, value,
               problem.chars);
  }
  const char *text = fm_keep_text(found);
  atomic_store(&problems, text != NULL ? text : "");
}

__attribute__((constructor)) void flashmla_read_environment(void) {
  pthread_mutex_lock(&reading);
  read_locked();
  pthread_mutex_unlock(&reading);
}

const char *flashmla_environment_error(void) { return atomic_load(&problems); }
