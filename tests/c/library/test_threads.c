/* Calls from several threads at once, on shared inputs and a shared plan, agree bit for bit; so does a call in a forked
 * child. */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"

enum { CALLERS = 4, ROUNDS = 5 };

static fixture shared; /* its outputs are the reference */

static void fill(DLTensor *tensor, size_t bytes) {
  float *values = tensor->data;
  for (size_t i = 0; i < bytes / sizeof *values; ++i) values[i] = (float)(i * 2654435761u % 2003) / 1001.5f - 1.0f;
}

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

static void in_a_forked_child(void) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    repeat(2);
    CHECK_STATUS(flashmla_dense_decode(NULL), FLASHMLA_ERROR_NULL_POINTER, "params");
    _exit(0); /* no leak check: the child shares the parent's blocks */
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  repeat(2); /* the parent goes on */
}

int main(void) {
  fixture_init(&shared, (geometry){4, 1, 20, 2, 5, 64, 3, .dtype = FP32});
  fill(&shared.tensor[Q], shared.bytes[Q]);
  fill(&shared.tensor[KV_CACHE], shared.bytes[KV_CACHE]);
  memcpy(shared.tensor[CACHE_SEQLENS].data, (int32_t[]){150, 3, 0, 64}, 4 * sizeof(int32_t));
  fixture_use_plan(&shared, 0);
  CHECK_OK(flashmla_dense_decode(&shared.decode));
  from_several_threads();
  in_a_forked_child();
  fixture_free(&shared);
  return 0;
}
