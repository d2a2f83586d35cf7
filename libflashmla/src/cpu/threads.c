/* threads.c - how many threads a call gets. */
#include "cpu/threads.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/arith.h"

/* In units of fm_cpu_threads_for: what one thread does in the time that two need, one of which has to wake up first.
 * See FLOP_PER_THREAD of dense decode. */
enum { LEAST_TO_SHARE = 4 };

static int32_t allowed(int32_t requested) {
  if (requested > 0) return requested;
  const char *text = getenv("FLASHMLA_NUM_THREADS");
  if (text != NULL) {
    char *end;
    errno = 0;
    const long value = strtol(text, &end, 10);
    if (errno == 0 && end != text && *end == '\0' && value > 0 && value <= INT32_MAX) return (int32_t)value;
  }
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) return CPU_COUNT(&mask);
  const long online = sysconf(_SC_NPROCESSORS_ONLN); /* more CPUs than cpu_set_t has bits */
  return online > 0 ? (int32_t)online : 1;
}

int32_t fm_cpu_threads_for(int32_t requested, int32_t most, double work) {
  if (work < LEAST_TO_SHARE) return 1;
  const int32_t threads = fm_min32(allowed(requested), most);
  return work < threads ? (int32_t)work : threads;
}
