/* log.c - calls of the stub driver are appended to the file STUB_LOG, one JSON object a line; a test may make one fail,
 * or hold it up. */
#include "log.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static bool held;
static _Thread_local char fail_name[64]; /* a call of this function on this thread fails ... */
static _Thread_local int fail_code;      /* ... with this error ... */
static _Thread_local int fail_after;     /* ... after so many that do not */
static _Thread_local char hold_name[64]; /* a call of this function on this thread waits */

int setting(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

/* For the test: makes a call of a function fail on this thread. */
void stub_fail(const char *name, int code, int after) {
  snprintf(fail_name, sizeof fail_name, "%s", name);
  fail_code = code;
  fail_after = after;
}

/* For the test: makes the next call of a function on this thread wait for stub_go; another thread waits until it does.
 */
void stub_hold(const char *name) { snprintf(hold_name, sizeof hold_name, "%s", name); }

void stub_wait_until_held(void) {
  pthread_mutex_lock(&lock);
  while (!held) pthread_cond_wait(&turn, &lock);
  pthread_mutex_unlock(&lock);
}

static void turn_to(bool now_held) {
  held = now_held;
  pthread_cond_broadcast(&turn);
}

void stub_go(void) {
  pthread_mutex_lock(&lock);
  turn_to(false);
  pthread_mutex_unlock(&lock);
}

FILE *open_line(const char *call) {
  pthread_mutex_lock(&lock);
  FILE *log = fopen(getenv("STUB_LOG"), "a");
  if (!log) abort();
  fprintf(log, "{\"call\": \"%s\", \"thread\": %lu, \"device\": %d", call, (unsigned long)pthread_self(),
          current_device());
  return log;
}

int close_line(FILE *log, const char *call, int result) {
  if (strcmp(fail_name, call) == 0 && fail_after-- == 0) {
    result = fail_code;
    fail_name[0] = 0;
  }
  fprintf(log, ", \"result\": %d}\n", result);
  fclose(log);
  if (strcmp(hold_name, call) == 0) {
    hold_name[0] = 0;
    turn_to(true);
    while (held) pthread_cond_wait(&turn, &lock);
  }
  pthread_mutex_unlock(&lock);
  return result;
}
