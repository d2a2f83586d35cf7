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
static _Atomic(kept *) texts;
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(const char *) problems = "";

/* Without a lock, which a child that is forked meanwhile would find taken. */
const char *fm_keep_text(const char *text) {
  kept *first = atomic_load(&texts), *made = NULL;
  const kept *looked_at = NULL; /* with those behind it */
  do {
    for (const kept *known = first; known != looked_at; known = known->next)
      if (strcmp(known->chars, text) == 0) {
        free(made);
        return known->chars;
      }
    if (made == NULL && (made = malloc(sizeof *made + strlen(text) + 1)) == NULL) return NULL;
    strcpy(made->chars, text);
    made->next = first;
    looked_at = first;
  } while (!atomic_compare_exchange_weak(&texts, &first, made));
  return made->chars;
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

/* A child that is forked while another thread reads could not read otherwise. */
static void before_fork(void) { pthread_mutex_lock(&reading); }
static void after_fork(void) { pthread_mutex_unlock(&reading); }
static void survive_forks(void) { pthread_atfork(before_fork, after_fork, after_fork); }

__attribute__((constructor)) void flashmla_read_environment(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, survive_forks);
  pthread_mutex_lock(&reading);
  read_locked();
  pthread_mutex_unlock(&reading);
}

const char *flashmla_environment_error(void) { return atomic_load(&problems); }
