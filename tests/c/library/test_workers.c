/* The threads of a parallel call: at the same time, each index once, in the caller's CPUs, in one floating-point mode
 * whatever the caller's is; calls within calls and in a forked child; and gone after a while. */
#include <fenv.h>
#include <float.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "core/float_mode.h"
#include "cpu/threads.h"
#include "workers.h"

enum { THREADS = 5, CALLERS = 4, ROUNDS = 200 };

/* Every thread waits for all others, so each index is called. */
typedef struct meeting {
  atomic_int arrived, calls[THREADS];
  int32_t threads;
  void (*check)(void);
} meeting;

static void meet(void *context, int32_t thread) {
  meeting *m = context;
  CHECK(thread >= 0 && thread < m->threads);
  m->calls[thread]++;
  m->arrived++;
  while (m->arrived < m->threads) sched_yield();
  if (m->check != NULL) m->check();
}

static void hold_meeting(int32_t threads, void (*check)(void)) {
  meeting m = {.threads = threads, .check = check};
  fm_cpu_parallel(threads, meet, &m);
  for (int32_t i = 0; i < threads; i++) CHECK(m.calls[i] == 1);
}

static void at_the_same_time(void) {
  for (int i = 0; i < ROUNDS; i++) hold_meeting(1 + i % THREADS, NULL);
}

static void *caller(void *unused) {
  at_the_same_time();
  return unused;
}

static void several_callers(void) {
  pthread_t thread[CALLERS];
  for (int i = 0; i < CALLERS; i++) CHECK(pthread_create(&thread[i], NULL, caller, NULL) == 0);
  for (int i = 0; i < CALLERS; i++) CHECK(pthread_join(thread[i], NULL) == 0);
}

static void call_within(void) { hold_meeting(3, NULL); }

/* Indices are called once at most, index 0 always; what the others would do is done when the call returns. */
static void count(void *context, int32_t thread) { ((atomic_int *)context)[thread]++; }

static void work_without_meetings(void) {
  for (int i = 0; i < ROUNDS; i++) {
    atomic_int calls[THREADS] = {0};
    fm_cpu_parallel(THREADS, count, calls);
    CHECK(calls[0] == 1);
    for (int t = 0; t < THREADS; t++) CHECK(calls[t] <= 1);
    if (i % 20 == 0) usleep(300); /* workers fall asleep */
  }
}

static cpu_set_t caller_cpus;

static void on_the_callers_cpus(void) {
  cpu_set_t cpus;
  CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
  CHECK(CPU_EQUAL(&cpus, &caller_cpus));
}

static void on_any_cpus(void) {
  cpu_set_t all;
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &all)) continue;
    CPU_ZERO(&caller_cpus);
    CPU_SET(cpu, &caller_cpus);
    CHECK(sched_setaffinity(0, sizeof caller_cpus, &caller_cpus) == 0);
    hold_meeting(THREADS, on_the_callers_cpus);
  }
  caller_cpus = all;
  CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
  hold_meeting(THREADS, on_the_callers_cpus);
}

/* FE_TONEAREST and so on, by what sums come to: fegetround may look elsewhere. */
static int rounding(void) {
  volatile float one = 1, less = FLT_EPSILON / 3, more = FLT_EPSILON / 1.5f;
  const bool up = one + less > 1, down = -one - less < -1;
  return up ? FE_UPWARD : down ? FE_DOWNWARD : one + more > 1 ? FE_TONEAREST : FE_TOWARDZERO;
}

static void computes_in_the_mode_of_the_library(void) {
  volatile float smallest = FLT_MIN, subnormal = 1e-40f, one = 1, zero = 0;
  CHECK(rounding() == FE_TONEAREST);
  CHECK(one / zero > FLT_MAX && zero / zero != 0); /* not trapped */
  CHECK(smallest / 2 == 0 && subnormal * 1e20f == 0);
}

/* And the caller's is there again afterwards, with the exceptions it knows of. */
static void in_any_floating_point_mode(void) {
  static const int roundings[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO, FE_TONEAREST};
  const int traps = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW;
  for (int32_t i = 0; i < 8; i++) {
    fesetround(roundings[i % 4]);
    feclearexcept(FE_ALL_EXCEPT);
    if (i < 4) feenableexcept(traps); /* not every machine can */
    const fm_float_mode before = fm_set_float_mode(false);
    fm_restore_float_mode(before);
    hold_meeting(1 + i % THREADS, computes_in_the_mode_of_the_library);
    const fm_float_mode after = fm_set_float_mode(false);
    fm_restore_float_mode(after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    CHECK(fetestexcept(traps | FE_UNDERFLOW) == 0 && rounding() == roundings[i % 4]);
    volatile float smallest = FLT_MIN;
    CHECK(smallest / 2 > 0);
    fedisableexcept(traps);
  }
}

static void in_a_forked_child(void) {
  hold_meeting(THREADS, NULL);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    CHECK(workers() == 0);
    at_the_same_time();
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ThreadSanitizer would end a child of a process with threads. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "die_after_fork=0"; }

static void kept_for_a_while(void) {
  bool found = false; /* a machine that is busy with other things may stop this program for longer */
  for (int tries = 0; !found && tries < 20; tries++) {
    for (int i = 0; i < ROUNDS; i++) hold_meeting(THREADS, NULL);
    const int kept = workers();
    hold_meeting(THREADS, NULL);
    found = kept >= THREADS - 1 && workers() == kept;
  }
  CHECK(found);
  for (int tenths = 0; workers() > 0 && tenths < 100; tenths++) usleep(100000);
  CHECK(workers() == 0);
  hold_meeting(THREADS, NULL);
}

int main(int arguments, char **unused) {
  (void)unused;
  at_the_same_time();
  if (arguments == 1)
    in_a_forked_child(); /* not where an emulator cannot; while no worker ends: AddressSanitizer's allocator is not safe
                            to fork in */
  several_callers();
  hold_meeting(3, call_within);
  work_without_meetings();
  on_any_cpus();
  in_any_floating_point_mode();
  kept_for_a_while();
  return 0; /* with idle workers */
}
