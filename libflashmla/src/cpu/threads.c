/* threads.c - how many threads, and a parallel call. Threads live for one call: there is no state that a fork could
 * break or an unload could leak, and calls from several threads need no coordination. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "cpu/cpu.h"

int32_t fm_cpu_num_threads(int32_t requested) {
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
  const int32_t threads = fm_min32(fm_cpu_num_threads(requested), most);
  return work < threads ? 1 + fm_min32((int32_t)work, threads - 1) : threads;
}

typedef struct worker {
  pthread_t id;
  int32_t index;
  void (*work)(void *context, int32_t thread);
  void *context;
} worker;

static void *run_worker(void *argument) {
  const worker *self = argument;
  self->work(self->context, self->index);
  return NULL;
}

void fm_cpu_parallel(int32_t threads, void (*work)(void *context, int32_t thread), void *context) {
  worker *workers = threads > 1 ? malloc(sizeof(worker) * (size_t)(threads - 1)) : NULL;
  int32_t started = 0;
  if (workers != NULL) {
    sigset_t all, before; /* signals of the process belong to the application's threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; started < threads - 1; started++) {
      worker *next = &workers[started];
      *next = (worker){.index = started + 1, .work = work, .context = context};
      if (pthread_create(&next->id, NULL, run_worker, next) != 0) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
  }
  work(context, 0);
  for (int32_t i = 0; i < started; i++) pthread_join(workers[i].id, NULL);
  free(workers);
}
