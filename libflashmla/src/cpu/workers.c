/* workers.c - the threads that share the work of a call.
 *
 * Workers are kept between calls. An idle one is in a list, asleep; a call takes those it needs out of the
 * list, or starts new ones, has them to itself, and puts them back. So calls from several threads, or calls from within
 * a call, neither wait for each other's workers nor know of each other. A worker that nobody needed for IDLE_SECONDS
 * ends. The library must stay mapped while there are workers: it is linked with -z nodelete. */
#include "cpu/threads.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/float_mode.h"

enum {
  IDLE_SECONDS = 1, /* starting a worker anew costs nothing beside this */
  /* The threads of a call end at about the same time. So where each has a CPU, one that waits for another spins before
   * it sleeps, about as long as waking up would take. An idle worker sleeps at once: the CPU may be wanted by others.
   */
  SPIN_NS = 20000,
  FAN_OUT = 2 /* workers that each thread of a call wakes, so that the last of n begins after log(n) wake-ups */
};

/* ---- a worker ---- */

typedef struct worker worker;

/* One fm_cpu_parallel. Thread i of it is workers[i - 1], and the caller is thread 0. */
typedef struct call {
  void (*work)(void *context, int32_t thread);
  void *context;
  worker **workers;
  int32_t num_workers;
  bool knows_cpus;
  cpu_set_t cpus; /* where the caller may run, and so its workers */
  bool spins;     /* there are as many CPUs as threads */
} call;

/* A worker is idle or belongs to one call, whose threads alone change `state` then. It sleeps on `state`, and so
 * does a caller that waits for it. */
enum { IDLE, SLEEPING /* idle too, but needs to be woken */, ASKED, RUNNING, AWAITED /* running; the caller sleeps */ };
struct worker {
  atomic_uint state;
  int32_t thread; /* this and the next: what was asked */
  const call *call;
  worker *next;   /* idle one */
  cpu_set_t cpus; /* known to the worker alone: where it may run */
};

static struct {
  pthread_mutex_t lock;
  worker *first; /* the one that ran last */
  bool usable;
} idle = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static _Thread_local bool spins; /* this thread's call has a CPU for each of its threads */

/* Returns when the word is no longer `value`, or after SPIN_NS. */
static void spin_on(atomic_uint *word, unsigned value) {
  if (!spins) return;
  struct timespec from, now;
  clock_gettime(CLOCK_MONOTONIC, &from);
  while (atomic_load(word) == value) {
    for (int i = 0; i < 8; i++) relax();
    clock_gettime(CLOCK_MONOTONIC, &now);
    if ((now.tv_sec - from.tv_sec) * 1000000000LL + now.tv_nsec - from.tv_nsec > SPIN_NS) return;
  }
}

/* Sleeps while the word is `value`. False: it timed out. */
static bool sleep_on(atomic_uint *word, unsigned value, const struct timespec *timeout) {
  return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout, NULL, 0) == 0 || errno != ETIMEDOUT;
}

static void wake(atomic_uint *word, int threads) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
}

enum { CLOSED, CLOSED_AWAITED /* and threads sleep before it */, OPEN };

void fm_cpu_gate_wait(fm_cpu_gate *gate) {
  spin_on(&gate->state, CLOSED);
  unsigned state = CLOSED;
  atomic_compare_exchange_strong(&gate->state, &state, CLOSED_AWAITED);
  while (atomic_load(&gate->state) != OPEN) sleep_on(&gate->state, CLOSED_AWAITED, NULL);
}

void fm_cpu_gate_open(fm_cpu_gate *gate) {
  if (atomic_exchange(&gate->state, OPEN) == CLOSED_AWAITED) wake(&gate->state, INT_MAX);
}

/* Asks the workers that thread `thread` has to wake. */
static void ask_workers(const call *call, int32_t thread) {
  for (int64_t i = (int64_t)thread * FAN_OUT + 1; i <= (int64_t)thread * FAN_OUT + FAN_OUT; i++) {
    if (i > call->num_workers) return;
    worker *next = call->workers[i - 1];
    next->call = call;
    next->thread = (int32_t)i;
    if (atomic_exchange(&next->state, ASKED) == SLEEPING) wake(&next->state, 1);
  }
}

/* Takes an idle worker out of the list; false: some call has it. */
static bool leave_idle(const worker *self) {
  pthread_mutex_lock(&idle.lock);
  worker **at = &idle.first;
  while (*at != NULL && *at != self) at = &(*at)->next;
  const bool found = *at != NULL;
  if (found) *at = self->next;
  pthread_mutex_unlock(&idle.lock);
  return found;
}

/* False: the worker is to end. */
static bool wait_for_call(worker *self) {
  const struct timespec timeout = {.tv_sec = IDLE_SECONDS};
  for (;;) {
    unsigned state = ASKED;
    if (atomic_compare_exchange_strong(&self->state, &state, RUNNING)) return true;
    if (state == IDLE && !atomic_compare_exchange_strong(&self->state, &state, SLEEPING)) continue;
    if (!sleep_on(&self->state, SLEEPING, &timeout) && leave_idle(self)) return false;
  }
}

static void *run_worker(void *argument) {
  worker *self = argument;
  pthread_setname_np(pthread_self(), "flashmla");
  fm_set_float_mode(true);
  while (wait_for_call(self)) {
    const call *call = self->call;
    ask_workers(call, self->thread);
    if (call->knows_cpus && memcmp(&self->cpus, &call->cpus, sizeof self->cpus) != 0) {
      self->cpus = call->cpus;
      sched_setaffinity(0, sizeof self->cpus, &self->cpus); /* refused: it runs where it ran */
    }
    spins = call->spins;
    call->work(call->context, self->thread);
    if (atomic_exchange(&self->state, IDLE) == AWAITED) wake(&self->state, 1);
  }
  free(self);
  return NULL;
}

/* ---- idle workers ---- */

static void before_fork(void) { pthread_mutex_lock(&idle.lock); }

static void after_fork(void) { pthread_mutex_unlock(&idle.lock); }

static void in_child(void) { /* where no worker is */
  while (idle.first != NULL) {
    worker *gone = idle.first;
    idle.first = gone->next;
    free(gone);
  }
  after_fork();
}

static void prepare_idle(void) { idle.usable = pthread_atfork(before_fork, after_fork, in_child) == 0; }

/* Of the caller's attributes a new thread has the signal mask and the CPUs. */
static worker *start_worker(const call *call) {
  worker *made = malloc(sizeof *made);
  pthread_attr_t attributes;
  if (made == NULL || pthread_attr_init(&attributes) != 0) {
    free(made);
    return NULL;
  }
  *made = (worker){.state = IDLE, .cpus = call->cpus};
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t id;
  const bool started = pthread_create(&id, &attributes, run_worker, made) == 0;
  pthread_attr_destroy(&attributes);
  if (started) return made;
  free(made);
  return NULL;
}

/* Signals of the process belong to the application's threads. A thread's own ones stay: blocked, a fault would end the
 * process without its handler, and a profiler would not see the thread. */
static void start_workers(call *call, int32_t wanted) {
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGPROF};
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, prepare_idle);
  if (!idle.usable) return;
  sigset_t mask, before;
  sigfillset(&mask);
  for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) sigdelset(&mask, own[i]);
  pthread_sigmask(SIG_SETMASK, &mask, &before);
  while (call->num_workers < wanted) {
    worker *next = start_worker(call);
    if (next == NULL) break;
    call->workers[call->num_workers++] = next;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void take_workers(call *call, int32_t wanted) {
  pthread_mutex_lock(&idle.lock);
  while (call->num_workers < wanted && idle.first != NULL) {
    call->workers[call->num_workers++] = idle.first;
    idle.first = idle.first->next;
  }
  pthread_mutex_unlock(&idle.lock);
  if (call->num_workers < wanted) start_workers(call, wanted);
}

/* The last one first, so that the next call finds each worker at the index it had. */
static void put_workers_back(const call *call) {
  pthread_mutex_lock(&idle.lock);
  for (int32_t i = call->num_workers - 1; i >= 0; i--) {
    call->workers[i]->next = idle.first;
    idle.first = call->workers[i];
  }
  pthread_mutex_unlock(&idle.lock);
}

/* Returns when the worker is idle. One that has not begun need not: there is nothing left to do. Nor is it asked later,
 * if those before it in the call are idle. */
static void wait_for_worker(worker *worker) {
  unsigned state = ASKED;
  if (atomic_compare_exchange_strong(&worker->state, &state, IDLE)) return;
  spin_on(&worker->state, RUNNING);
  state = RUNNING;
  atomic_compare_exchange_strong(&worker->state, &state, AWAITED);
  while (atomic_load(&worker->state) == AWAITED) sleep_on(&worker->state, AWAITED, NULL);
}

static void run_with_workers(call *call, int32_t wanted) {
  call->workers = malloc(sizeof(worker *) * (size_t)wanted);
  if (call->workers != NULL) {
    call->knows_cpus = sched_getaffinity(0, sizeof call->cpus, &call->cpus) == 0;
    spins = call->spins = call->knows_cpus && wanted < CPU_COUNT(&call->cpus);
    take_workers(call, wanted);
    ask_workers(call, 0);
  }
  call->work(call->context, 0);
  for (int32_t i = 0; i < call->num_workers; i++) wait_for_worker(call->workers[i]);
  put_workers_back(call);
  free(call->workers);
}

void fm_cpu_parallel(int32_t threads, void (*work)(void *context, int32_t thread), void *context) {
  const fm_float_mode before = fm_set_float_mode(true);
  call call = {.work = work, .context = context};
  if (threads > 1)
    run_with_workers(&call, threads - 1);
  else
    work(context, 0);
  fm_restore_float_mode(before);
}
