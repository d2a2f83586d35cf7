/* The threads of a parallel call: at the same time, each index once, in the caller's CPUs and rounding, with their own
 * faults unmasked; calls within calls and in a forked child; and gone after a while. */
#include <dirent.h>
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "cpu/threads.h"

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

static pthread_t main_thread;

static void signals_of_a_worker(void) {
  sigset_t mask;
  CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
  const bool worker = !pthread_equal(pthread_self(), main_thread);
  const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGPROF};
  for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) CHECK(!sigismember(&mask, own[i]));
  const int others[] = {SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGALRM, SIGUSR1, SIGRTMIN};
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) CHECK(sigismember(&mask, others[i]) == worker);
}

static cpu_set_t caller_cpus;
static int caller_rounding;

static void as_the_caller(void) {
  cpu_set_t cpus;
  CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
  CHECK(CPU_EQUAL(&cpus, &caller_cpus));
  CHECK(fegetround() == caller_rounding);
}

static void in_the_callers_environment(void) {
  cpu_set_t all;
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &all)) continue;
    CPU_ZERO(&caller_cpus);
    CPU_SET(cpu, &caller_cpus);
    CHECK(sched_setaffinity(0, sizeof caller_cpus, &caller_cpus) == 0);
    fesetround(caller_rounding = cpu % 2 == 0 ? FE_UPWARD : FE_TOWARDZERO);
    hold_meeting(THREADS, as_the_caller);
  }
  fesetround(caller_rounding = FE_TONEAREST);
  caller_cpus = all;
  CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
  hold_meeting(THREADS, as_the_caller);
}

static int workers(void) {
  int found = 0;
  DIR *tasks = opendir("/proc/self/task");
  CHECK(tasks != NULL);
  for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
    char path[300], name[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
    FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
    if (file == NULL) continue;
    if (fgets(name, sizeof name, file) != NULL) found += strcmp(name, "flashmla\n") == 0;
    fclose(file);
  }
  closedir(tasks);
  return found;
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
  for (int i = 0; i < ROUNDS; i++) hold_meeting(THREADS, NULL);
  const int kept = workers();
  CHECK(kept >= THREADS - 1);
  hold_meeting(THREADS, NULL);
  CHECK(workers() == kept);
  for (int tenths = 0; workers() > 0 && tenths < 100; tenths++) usleep(100000);
  CHECK(workers() == 0);
  hold_meeting(THREADS, NULL);
}

int main(void) {
  main_thread = pthread_self();
  at_the_same_time();
  in_a_forked_child(); /* while no worker ends: AddressSanitizer's allocator is not safe to fork in */
  hold_meeting(THREADS, signals_of_a_worker);
  several_callers();
  hold_meeting(3, call_within);
  work_without_meetings();
  in_the_callers_environment();
  kept_for_a_while();
  return 0; /* with idle workers */
}
