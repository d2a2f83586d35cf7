/* threads.c - how many threads a call gets. */
#include "cpu/threads.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/arith.h"
#include "core/environment.h"

/* In units of fm_cpu_threads_for: what one thread does in the time that two need, one of which has to wake up first.
 * Found with calls of one thread and of two in turn, 300 us apart, so that the worker sleeps, in threads of real-time
 * priority, of whose times the third lowest in a hundred counted: on an AMD EPYC (Zen 4) two were as fast as one at 45
 * to 60 us of one, with any instruction set and with 1, 16 and 128 query rows. The units are set by that. */
enum { LEAST_TO_SHARE = 4 };

static atomic_int from_environment; /* 0: not set */

static void take_number(const char *value, fm_text *problem) {
  long number = 0;
  if (value != NULL) {
    char *end;
    errno = 0;
    number = strtol(value, &end, 10);
    if (errno != 0 || end == value || *end != '\0' || number <= 0 || number > INT32_MAX) {
      number = 0;
      fm_append(problem, "; it must be an integer in [1, 2^31), and the affinity mask counts instead");
    }
  }
  atomic_store(&from_environment, (int)number);
}

static const fm_variable num_threads = {"FLASHMLA_NUM_THREADS", take_number};
FM_VARIABLE(num_threads);

static int32_t allowed(int32_t requested) {
  if (requested > 0) return requested;
  const int32_t threads = atomic_load_explicit(&from_environment, memory_order_relaxed);
  if (threads > 0) return threads;
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
