/* log.c - see log.h. */
#include "core/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/environment.h"

enum { LINE_BYTES = 512 /* longer lines are cut off */ };

static _Atomic(bool) wanted;

static void take_log(const char *value, fm_text *problem) {
  const bool on = value != NULL && strcmp(value, "1") == 0;
  if (value != NULL && !on && strcmp(value, "0") != 0) fm_append(problem, "; it must be 0 or 1");
  atomic_store_explicit(&wanted, on, memory_order_relaxed);
}

static const fm_variable log_variable = {"FLASHMLA_LOG", take_log};
FM_VARIABLE(log_variable);

bool fm_logs(void) { return atomic_load_explicit(&wanted, memory_order_relaxed); }

typedef struct line {
  struct line *next;
  char chars[];
} line;
static line *lines;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* False where it was there; true too where there is no memory to remember it. */
static bool is_new_locked(const char *text) {
  for (const line *known = lines; known != NULL; known = known->next)
    if (strcmp(known->chars, text) == 0) return false;
  line *made = malloc(sizeof *made + strlen(text) + 1);
  if (made == NULL) return true;
  strcpy(made->chars, text);
  made->next = lines;
  lines = made;
  return true;
}

void fm_log_once(const char *format, ...) {
  char text[LINE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  pthread_mutex_lock(&lock);
  if (is_new_locked(text)) fprintf(stderr, "flashmla: %s\n", text);
  pthread_mutex_unlock(&lock);
}
