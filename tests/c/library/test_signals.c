/* Signals that a host handles reach it in the workers' threads too, and leave the call as it was: faults of memory that
 * a handler mends, as paging in user space does, and a profiler's interrupts. Others stay with the host's own threads.
 */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "cpu/threads.h"
#include "fixture.h"

enum { THREADS = 3, ROUNDS = 1000 };

static pthread_t main_thread;
static atomic_int faults, faults_of_workers;

/* ---- every signal of a thread's own, one by one ---- */

static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGPROF};
enum { OWN = sizeof own / sizeof own[0] };
static atomic_int handled[OWN], arrived;

static void count_signal(int number) {
  for (int i = 0; i < OWN; i++)
    if (own[i] == number) handled[i]++;
}

static void raise_all(void *context, int32_t thread) {
  (void)context;
  (void)thread;
  arrived++;
  while (arrived < THREADS) sched_yield();
  for (int i = 0; i < OWN; i++) CHECK(pthread_kill(pthread_self(), own[i]) == 0);
}

static void each_is_delivered(void) {
  for (int i = 0; i < OWN; i++) signal(own[i], count_signal);
  fm_cpu_parallel(THREADS, raise_all, NULL);
  for (int i = 0; i < OWN; i++) {
    CHECK(handled[i] == THREADS);
    signal(own[i], SIG_DFL);
  }
}

static void others_are_blocked(void *context, int32_t thread) {
  static const int others[] = {SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGALRM, SIGUSR1, SIGUSR2};
  sigset_t mask;
  (void)context;
  CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) CHECK(sigismember(&mask, others[i]) == (thread != 0));
}

/* ---- a cache whose pages come when they are touched ---- */

static fixture f;
static size_t page_bytes;
static char *cache;

static void page_in(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)context;
  faults++;
  if (!pthread_equal(pthread_self(), main_thread)) faults_of_workers++;
  usleep(200); /* the other threads begin meanwhile */
  char *page = (char *)((uintptr_t)info->si_addr / page_bytes * page_bytes);
  if (page < cache || page >= cache + f.bytes[KV_CACHE] || mprotect(page, page_bytes, PROT_READ) != 0) _exit(3);
}

static void paged_in_by_a_handler(void) {
  page_bytes = (size_t)sysconf(_SC_PAGESIZE);
  const size_t bytes = (f.bytes[KV_CACHE] + page_bytes - 1) / page_bytes * page_bytes;
  cache = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(cache != MAP_FAILED);
  memcpy(cache, f.tensor[KV_CACHE].data, f.bytes[KV_CACHE]);
  void *before = f.tensor[KV_CACHE].data, *expected = malloc(f.bytes[OUT]);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  memcpy(expected, f.tensor[OUT].data, f.bytes[OUT]);

  const struct sigaction paging = {.sa_sigaction = page_in, .sa_flags = SA_SIGINFO | SA_NODEFER};
  struct sigaction others;
  CHECK(sigaction(SIGSEGV, &paging, &others) == 0);
  f.tensor[KV_CACHE].data = cache;
  for (int i = 0; faults_of_workers == 0 && i < ROUNDS; i++) {
    CHECK(mprotect(cache, bytes, PROT_NONE) == 0);
    memset(f.tensor[OUT].data, 0, f.bytes[OUT]);
    CHECK_OK(flashmla_dense_decode(&f.decode));
    CHECK(memcmp(f.tensor[OUT].data, expected, f.bytes[OUT]) == 0);
  }
  CHECK(faults > 0 && faults_of_workers > 0);
  CHECK(sigaction(SIGSEGV, &others, NULL) == 0);
  f.tensor[KV_CACHE].data = before;
  CHECK(munmap(cache, bytes) == 0);

  free(expected);
}

static atomic_bool enough;

/* Sends SIGPROF to every thread of the library, as a profiler of threads does. */
static void *profiler(void *unused) {
  while (!enough) {
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
      char path[300], name[32] = "";
      snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
      FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
      if (file == NULL) continue;
      if (fgets(name, sizeof name, file) != NULL && strcmp(name, "flashmla\n") == 0)
        syscall(SYS_tgkill, getpid(), atoi(task->d_name), SIGPROF);
      fclose(file);
    }
    closedir(tasks);
  }
  return unused;
}

static void while_profiled(void) {
  void *expected = malloc(f.bytes[OUT]);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  memcpy(expected, f.tensor[OUT].data, f.bytes[OUT]);
  memset(handled, 0, sizeof handled);
  const struct sigaction profiling = {.sa_handler = count_signal}; /* no SA_RESTART: sleeps end early */
  CHECK(sigaction(SIGPROF, &profiling, NULL) == 0);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, profiler, NULL) == 0);
  for (int i = 0; handled[OWN - 1] < 100 || i < 100; i++) {
    CHECK(i < 100 * ROUNDS);
    CHECK_OK(flashmla_dense_decode(&f.decode));
    CHECK(memcmp(f.tensor[OUT].data, expected, f.bytes[OUT]) == 0);
  }
  enough = true;
  CHECK(pthread_join(thread, NULL) == 0);
  free(expected);
}

int main(void) {
  main_thread = pthread_self();
  each_is_delivered();
  fm_cpu_parallel(THREADS, others_are_blocked, NULL);
  fixture_init(&f, (geometry){4, 1, 20, 2, 24, 64, 6, .dtype = FP32});
  fixture_fill(&f);
  for (int32_t i = 0; i < 24; ++i) ((int32_t *)f.tensor[BLOCK_TABLE].data)[i] = i;
  memcpy(f.tensor[CACHE_SEQLENS].data, (int32_t[]){384, 300, 384, 64}, 4 * sizeof(int32_t));
  f.decode.num_threads = THREADS;
  paged_in_by_a_handler();
  while_profiled();
  fixture_free(&f);
  return 0;
}
