/* Calls of several threads on one pool wait for one another: nothing is lost, whatever their order. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../pools.h"

enum { THREADS = 4, ROUNDS = 3000, FORKS = 40, PATIENCE = 20 /* seconds */ };

static pools p;

/* A thread has one row at a time at most, so that there is always one; blocks may run out. */
static void *serve(void *argument) {
  static const int64_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  (void)argument;
  for (int i = 0; i < ROUNDS; ++i) {
    flashmla_sequence one;
    int64_t cached, total;
    int32_t more;
    if (flashmla_pool_allocate(p.pool, ids, 8, &one, &cached) != FLASHMLA_OK) continue;
    more = 6 - (int32_t)cached;
    if (flashmla_pool_append(p.pool, &one, &more, 1, NULL, &total) == FLASHMLA_OK) {
      CHECK_OK(flashmla_pool_commit(p.pool, one, ids, 6));
      if (flashmla_pool_swap_out(p.pool, one, NULL) == FLASHMLA_OK)
        while (flashmla_pool_swap_in(p.pool, one, NULL) != FLASHMLA_OK) continue;
      CHECK_OK(flashmla_pool_truncate(p.pool, one, 5));
      CHECK_OK(flashmla_pool_update(p.pool, NULL));
    }
    CHECK_OK(flashmla_pool_free(p.pool, one));
  }
  return NULL;
}

static void *ask(void *ended) {
  while (!atomic_load((atomic_bool *)ended)) usage_of(&p);
  return NULL;
}

/* A child has the pool as it was between two calls. */
static void fork_children(void) {
  atomic_bool ended = false;
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, ask, &ended) == 0);
  for (int i = 0; i < FORKS; ++i) {
    int status;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(PATIENCE);
      const flashmla_pool_usage usage = usage_of(&p);
      _exit(usage.used_blocks + usage.free_blocks + usage.cached_blocks == BLOCKS ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  atomic_store(&ended, true);
  CHECK(pthread_join(thread, NULL) == 0);
}

int main(void) {
  pthread_t threads[THREADS];
  pools_make(&p);
  for (int i = 0; i < THREADS; ++i) CHECK(pthread_create(&threads[i], NULL, serve, NULL) == 0);
  for (int i = 0; i < THREADS; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  const flashmla_pool_usage usage = usage_of(&p);
  CHECK(usage.used_blocks == 0 && usage.shared_blocks == 0 && usage.sequences == 0 && usage.swapped_sequences == 0);
  CHECK(usage.free_blocks + usage.cached_blocks == BLOCKS && usage.free_rows == ROWS);
  CHECK(usage.free_host_blocks == HOST_BLOCKS);
  fork_children();
  pools_free(&p);
  return 0;
}
