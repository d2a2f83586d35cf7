/* create.c - pools are made and freed. */
#include <stdlib.h>

#include "core/arith.h"
#include "pool/pool.h"

enum { TAGS = 127 };

/* Pools made behind one another have different tags in the names of their sequences. */
static uint64_t next_tag(void) {
  static uint32_t made;
  return __atomic_fetch_add(&made, 1, __ATOMIC_RELAXED) % TAGS + 1;
}

/* All pools. A child that is forked while another thread has the lock of one could not use that one otherwise. */
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static flashmla_pool *all;

static void before_fork(void) {
  pthread_mutex_lock(&all_lock);
  for (flashmla_pool *pool = all; pool != NULL; pool = pool->next) pthread_mutex_lock(&pool->lock);
}

static void after_fork(void) {
  for (flashmla_pool *pool = all; pool != NULL; pool = pool->next) pthread_mutex_unlock(&pool->lock);
  pthread_mutex_unlock(&all_lock);
}

static bool survives_forks;
static void survive_forks(void) { survives_forks = pthread_atfork(before_fork, after_fork, after_fork) == 0; }

static void list_pool(flashmla_pool *pool) {
  pthread_mutex_lock(&all_lock);
  pool->next = all;
  if (all != NULL) all->previous = pool;
  all = pool;
  pthread_mutex_unlock(&all_lock);
}

static void unlist_pool(flashmla_pool *pool) {
  pthread_mutex_lock(&all_lock);
  if (pool->next != NULL) pool->next->previous = pool->previous;
  *(pool->previous != NULL ? &pool->previous->next : &all) = pool->next;
  pthread_mutex_unlock(&all_lock);
}

flashmla_status fm_check_result(const void *pointer, const char *name) {
  if (pointer != NULL) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s is NULL; the result goes there", name);
}

flashmla_status fm_enter_pool(flashmla_pool *pool) {
  if (pool == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "pool is NULL; flashmla_pool_create makes one");
  pthread_mutex_lock(&pool->lock);
  fm_use_names(pool->flags);
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_block_bytes(const flashmla_pool_params *params, uint64_t *bytes) {
  flashmla_pool_params used;
  fm_pool_sizes sizes;
  fm_pool_memory memory;
  FM_TRY(fm_check_result(bytes, "bytes"));
  FM_TRY(fm_check_pool(params, true, &used, &sizes, &memory, NULL));
  *bytes = (uint64_t)sizes.block_bytes;
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_staging_size(const flashmla_pool_params *params, uint64_t *bytes) {
  flashmla_pool_params used;
  fm_pool_sizes sizes;
  fm_pool_memory memory;
  fm_pool_arrays arrays;
  FM_TRY(fm_check_result(bytes, "bytes"));
  FM_TRY(fm_check_pool(params, true, &used, &sizes, &memory, &arrays));
  *bytes = memory.cuda ? (uint64_t)(FM_STAGING_BUFFERS * fm_staging_buffer_bytes(&sizes)) : 0;
  return FLASHMLA_OK;
}

static flashmla_status allocate(flashmla_pool *pool, const fm_pool_sizes *sizes) {
  fm_pool_arrays *arrays = &pool->arrays;
  const size_t rows = (size_t)sizes->rows, copies = (size_t)fm_max32(sizes->rows, sizes->max_blocks);
  arrays->lengths = calloc(rows, sizeof *arrays->lengths);
  arrays->slots = calloc((size_t)sizes->slots, sizeof *arrays->slots);
  arrays->row_first = calloc(rows, sizeof *arrays->row_first);
  arrays->row_end = calloc(rows, sizeof *arrays->row_end);
  arrays->dirty_rows = calloc(rows, sizeof *arrays->dirty_rows);
  pool->copies = calloc(copies, sizeof *pool->copies);
  pool->replaced = calloc(rows, sizeof *pool->replaced);
  if (arrays->lengths == NULL || arrays->slots == NULL || arrays->row_first == NULL || arrays->row_end == NULL ||
      arrays->dirty_rows == NULL || pool->copies == NULL || pool->replaced == NULL)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for the arrays of a pool could not be allocated");
  return FLASHMLA_OK;
}

static flashmla_status make(const flashmla_pool_params *given, flashmla_pool *pool) {
  flashmla_pool_params params;
  fm_pool_sizes sizes;
  FM_TRY(fm_check_pool(given, false, &params, &sizes, &pool->memory, &pool->arrays));
  pool->flags = params.flags;
  FM_TRY(fm_books_make(&sizes, params.hash_key, next_tag(), &pool->books));
  FM_TRY(allocate(pool, &sizes));
  pool->backend = pool->memory.cuda ? &fm_pool_cuda : &fm_pool_cpu;
  return pool->backend->open(pool, params.stream);
}

flashmla_status flashmla_pool_create(const flashmla_pool_params *params, flashmla_pool **pool) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  FM_TRY(fm_check_result(pool, "pool"));
  pthread_once(&once, survive_forks);
  flashmla_pool *made = survives_forks ? calloc(1, sizeof *made) : NULL;
  if (made == NULL) return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for a pool could not be allocated");
  pthread_mutex_init(&made->lock, NULL);
  list_pool(made);
  const flashmla_status status = make(params, made);
  if (status == FLASHMLA_OK)
    *pool = made;
  else
    flashmla_pool_destroy(made);
  return status;
}

void flashmla_pool_destroy(flashmla_pool *pool) {
  if (pool == NULL) return;
  unlist_pool(pool);
  if (pool->backend != NULL) pool->backend->close(pool);
  fm_books_free(&pool->books);
  free(pool->memory.segments);
  free(pool->arrays.lengths);
  free(pool->arrays.slots);
  free(pool->arrays.row_first);
  free(pool->arrays.row_end);
  free(pool->arrays.dirty_rows);
  free(pool->copies);
  free(pool->replaced);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}
