/* log.c - see log.h. */
#include "core/log.h"

#include <stdarg.h>
#include <stdatomic.h>

#include "core/environment.h"
#include "core/texts.h"

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

static fm_texts lines;

void fm_log_once(const char *format, ...) {
  char text[LINE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  bool is_new;
  fm_keep_in(&lines, text, &is_new);
  if (is_new) fprintf(stderr, "flashmla: %s\n", text);
}
