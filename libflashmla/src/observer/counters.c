/* counters.c - what flashmla_metrics tells, as OpenMetrics text (OpenMetrics 1.0): counted from its first call on. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "observer/observer.h"

enum { FIRST_ERROR = 100, STATUSES = 300 /* 100 to 399 */, SIDES = 2 /* CPU, CUDA */ };
static const char *const side_names[SIDES] = {"cpu", "cuda"};
static _Atomic(uint64_t) calls[FM_MOST_OPERATIONS][SIDES], call_ns[FM_MOST_OPERATIONS][SIDES];
static _Atomic(uint64_t) errors[FM_MOST_OPERATIONS][STATUSES];
static _Atomic(int64_t) since_ms; /* of the epoch; 0: not yet */

static void add(_Atomic(uint64_t) *to, uint64_t count) { atomic_fetch_add_explicit(to, count, memory_order_relaxed); }
static uint64_t value(_Atomic(uint64_t) *of) { return atomic_load_explicit(of, memory_order_relaxed); }

void fm_count_call(const fm_observation *seen, const fm_operation *operation, bool cuda, flashmla_status status) {
  const int32_t number = fm_number_of(operation);
  if (status == FLASHMLA_OK) {
    add(&calls[number][cuda], 1);
    add(&call_ns[number][cuda], (uint64_t)(fm_clock_ns() - seen->begin_ns));
  } else if (!fm_is_made_again(status) && (int)status >= FIRST_ERROR && (int)status < FIRST_ERROR + STATUSES) {
    add(&errors[number][status - FIRST_ERROR], 1);
  }
}

/* Text that is cut off where there is no more room, and counted on. */
typedef struct page {
  char *text;
  uint64_t size, used;
} page;

__attribute__((format(printf, 2, 3))) static void put(page *to, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const bool fits = to->used < to->size;
  const int length = vsnprintf(fits ? to->text + to->used : NULL, fits ? to->size - to->used : 0, format, arguments);
  va_end(arguments);
  to->used += (uint64_t)length;
}

static void put_stamp(page *to) {
  const int64_t ms = atomic_load(&since_ms);
  put(to, " %lld.%03d\n", (long long)(ms / 1000), (int)(ms % 1000));
}

static void put_by_side(page *to, const char *name, bool seconds) {
  for (int32_t i = 0; fm_operation_at(i) != NULL && i < FM_MOST_OPERATIONS; ++i)
    for (int32_t side = 0; side < SIDES; ++side) {
      const char *labels = "operation=\"%s\",device=\"%s\"";
      char filled[96];
      snprintf(filled, sizeof filled, labels, fm_operation_at(i)->name, side_names[side]);
      const uint64_t count = value(seconds ? &call_ns[i][side] : &calls[i][side]);
      if (seconds)
        put(to, "%s_total{%s} %llu.%09llu\n", name, filled, (unsigned long long)(count / 1000000000),
            (unsigned long long)(count % 1000000000));
      else
        put(to, "%s_total{%s} %llu\n", name, filled, (unsigned long long)count);
      put(to, "%s_created{%s}", name, filled);
      put_stamp(to);
    }
}

static void put_errors(page *to) {
  for (int32_t i = 0; fm_operation_at(i) != NULL && i < FM_MOST_OPERATIONS; ++i)
    for (int32_t status = 0; status < STATUSES; ++status) {
      const uint64_t count = value(&errors[i][status]);
      if (count == 0) continue;
      const char *words = flashmla_status_string((flashmla_status)(status + FIRST_ERROR));
      put(to, "flashmla_errors_total{operation=\"%s\",status=\"%d\",reason=\"%s\"} %llu\n", fm_operation_at(i)->name,
          status + FIRST_ERROR, words, (unsigned long long)count);
    }
}

static void put_all(page *to) {
  put(to, "# TYPE flashmla_calls counter\n# HELP flashmla_calls Calls of operations that succeeded.\n");
  put_by_side(to, "flashmla_calls", false);
  put(to,
      "# TYPE flashmla_call_seconds counter\n# UNIT flashmla_call_seconds seconds\n"
      "# HELP flashmla_call_seconds Time of the host in calls that succeeded.\n");
  put_by_side(to, "flashmla_call_seconds", true);
  put(to, "# TYPE flashmla_errors counter\n# HELP flashmla_errors Calls of operations that failed, by status.\n");
  put_errors(to);
  put(to, "# EOF\n");
}

static void begin_counting(void) {
  struct timespec now;
  int64_t never = 0;
  clock_gettime(CLOCK_REALTIME, &now);
  atomic_compare_exchange_strong(&since_ms, &never, (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
  fm_observe(FM_COUNTING, true);
}

flashmla_status flashmla_metrics(char *text, uint64_t size, uint64_t *bytes) {
  if (bytes == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "bytes is NULL; the length of the text goes there");
  if (text == NULL && size > 0)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "text is NULL and size %llu", (unsigned long long)size);
  begin_counting();
  page to = {text, size, 0};
  put_all(&to);
  *bytes = to.used + 1;
  return FLASHMLA_OK;
}
