/* environment.c - see environment.h. */
#include "core/environment.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/texts.h"
#include "flashmla/flashmla.h"

enum { MOST_BYTES = 512 /* of all that is wrong; more is cut off */ };

/* Begin and end of the section that FM_VARIABLE fills; the linker makes them, where there is a variable. */
extern const fm_variable *const __start_fm_variables[] FM_SECTION_EDGE __attribute__((weak));
extern const fm_variable *const __stop_fm_variables[] FM_SECTION_EDGE __attribute__((weak));

static fm_texts texts;
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(const char *) problems = "";

const char *fm_keep_text(const char *text) {
  bool is_new;
  return fm_keep_in(&texts, text, &is_new);
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
