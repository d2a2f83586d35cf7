/* Calls from several threads at once, on shared inputs and a shared plan, agree bit for bit; so do calls in forked
 * children, while other threads of the parent are in calls too. A caller that is cancelled, at once even, finishes its
 * call. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"

enum { CALLERS = 4, ROUNDS = 5 };

static fixture shared; /* its outputs are the reference */

/* The shared call with outputs and workspace of its own; the result must be that of `shared`. */
static void repeat(int32_t num_threads) {
  DLTensor out = shared.tensor[OUT], lse = shared.tensor[LSE];
  flashmla_dense_decode_params call = shared.decode;
  out.data = aligned_alloc(64, (shared.bytes[OUT] + 63) / 64 * 64);
  lse.data = malloc(shared.bytes[LSE]);
  call.workspace = aligned_alloc(16, call.workspace_size);
  CHECK(out.data != NULL && lse.data != NULL && call.workspace != NULL);
  call.out = &out;
  call.lse = &lse;
  call.num_threads = num_threads;
  CHECK_OK(flashmla_dense_decode(&call));
  CHECK(memcmp(out.data, shared.tensor[OUT].data, shared.bytes[OUT]) == 0);
  CHECK(memcmp(lse.data, shared.tensor[LSE].data, shared.bytes[LSE]) == 0);
  free(out.data);
  free(lse.data);
  free(call.workspace);
}

static void *caller(void *number) {
  for (int i = 0; i < ROUNDS; ++i) repeat(1 + (i + *(const int *)number) % 3);
  return NULL;
}

static void from_several_threads(void) {
  pthread_t thread[CALLERS];
  int number[CALLERS];
  for (int i = 0; i < CALLERS; ++i) {
    number[i] = i;
    CHECK(pthread_create(&thread[i], NULL, caller, &number[i]) == 0);
  }
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_join(thread[i], NULL) == 0);
}

static void leave(void) { _exit(0); /* before leaks are looked for: the child shares the parent's blocks */ }

static int exit_status(pid_t child) {
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
  return WEXITSTATUS(status);
}

static void in_forked_children(void) {
  for (int i = 0; i < ROUNDS; ++i) {
    repeat(3); /* the parent has workers, the child has none */
#ifdef __SANITIZE_ADDRESS__
    usleep(10000); /* new workers are at rest, see below */
#endif
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      for (int again = 0; again < 3; ++again) repeat(2 + again);
      CHECK_STATUS(flashmla_dense_decode(NULL), FLASHMLA_ERROR_NULL_POINTER, "params");
      const pid_t grandchild = fork();
      if (grandchild == 0) repeat(3);
      if (grandchild != 0) CHECK(exit_status(grandchild) == 0);
      leave();
    }
    CHECK(exit_status(child) == 0);
    repeat(2); /* the parent goes on */
  }
}

#ifndef __SANITIZE_ADDRESS__ /* whose allocator hangs in a child forked while another thread is in it */
static atomic_bool enough;

static void *caller_until_enough(void *unused) {
  while (!enough) repeat(3);
  return unused;
}

static void in_children_forked_amid_calls(void) {
  pthread_t thread[CALLERS];
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_create(&thread[i], NULL, caller_until_enough, NULL) == 0);
  in_forked_children();
  enough = true;
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_join(thread[i], NULL) == 0);
}
#endif

static void *cancelled_caller(void *finished) {
  CHECK(pthread_cancel(pthread_self()) == 0);
  repeat(3);
  *(int *)finished = 1;
  pthread_testcancel();
  return NULL;
}

static void when_cancelled(void) {
  pthread_t thread;
  int finished = 0;
  void *result;
  CHECK(pthread_create(&thread, NULL, cancelled_caller, &finished) == 0);
  CHECK(pthread_join(thread, &result) == 0);
  CHECK(finished && result == PTHREAD_CANCELED);
  repeat(3);
}

static void *hidden; /* q, which is not there before it is touched */
static size_t hidden_bytes;

static void cancel_and_show(int number) {
  (void)number;
  if (mprotect(hidden, hidden_bytes, PROT_READ) != 0) _exit(3);
  CHECK(pthread_cancel(pthread_self()) == 0);
  pthread_testcancel(); /* within a call that is no end of it */
}

static void *caller_of_hidden(void *finished) {
  flashmla_dense_decode_params call = shared.decode;
  DLTensor q = shared.tensor[Q];
  q.data = hidden;
  call.q = &q;
  call.num_threads = 1;
  CHECK_OK(flashmla_dense_decode(&call));
  *(int *)finished = 1;
  pthread_testcancel();
  return NULL;
}

static void when_cancelled_where_it_reads(void) {
  pthread_t thread;
  int finished = 0;
  void *result;
  hidden_bytes = (shared.bytes[Q] + 4095) / 4096 * 4096;
  hidden = mmap(NULL, hidden_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(hidden != MAP_FAILED);
  memcpy(hidden, shared.tensor[Q].data, shared.bytes[Q]);
  CHECK(mprotect(hidden, hidden_bytes, PROT_NONE) == 0);
  signal(SIGSEGV, cancel_and_show);
  CHECK(pthread_create(&thread, NULL, caller_of_hidden, &finished) == 0);
  CHECK(pthread_join(thread, &result) == 0);
  signal(SIGSEGV, SIG_DFL);
  CHECK(finished && result == PTHREAD_CANCELED);
  CHECK(munmap(hidden, hidden_bytes) == 0);
  repeat(3);
}

static void *cancelled_at_once(void *number) {
  flashmla_dense_decode_params call = shared.decode;
  call.num_threads = *(const int *)number;
  CHECK(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL) == 0);
  for (;;) CHECK_OK(flashmla_dense_decode(&call));
}

/* Most of them while workers are at it, too; any moment must do. */
static void when_cancelled_amid_calls(void) {
  for (int i = 0; i < 20 * ROUNDS; ++i) {
    pthread_t thread;
    int number = 1 + i % 3;
    void *result;
    CHECK(pthread_create(&thread, NULL, cancelled_at_once, &number) == 0);
    usleep(1000 + 50 * (unsigned)i);
    CHECK(pthread_cancel(thread) == 0);
    /* It never returns. glibc gives no result where it ends a thread in pthread_setcancelstate, behind a call. */
    CHECK(pthread_join(thread, &result) == 0 && (result == PTHREAD_CANCELED || result == NULL));
  }
  repeat(3);
}

/* The process ends when its last thread does: idle workers must not keep it. */
static void after_the_main_thread_ends(void) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    repeat(3);
    atexit(leave);
    pthread_exit(NULL);
  }
  CHECK(exit_status(child) == 0);
}

/* ThreadSanitizer would end a child of a process with threads. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "die_after_fork=0"; }

int main(int arguments, char **unused) {
  (void)unused;
  const bool forks = arguments == 1; /* and is cancelled at any time: not where an emulator cannot */
  fixture_init(&shared, (geometry){4, 1, 20, 2, 5, 64, 3, .dtype = FP32});
  fixture_fill(&shared);
  memcpy(shared.tensor[CACHE_SEQLENS].data, (int32_t[]){150, 3, 0, 64}, 4 * sizeof(int32_t));
  fixture_use_plan(&shared, 0);
  CHECK_OK(flashmla_dense_decode(&shared.decode));
  from_several_threads();
  if (forks) in_forked_children();
#ifndef __SANITIZE_ADDRESS__
  if (forks) in_children_forked_amid_calls();
#endif
  when_cancelled();
  if (forks) when_cancelled_where_it_reads();
  if (forks) when_cancelled_amid_calls();
  if (forks) after_the_main_thread_ends();
  fixture_free(&shared);
  return 0;
}
