/* cpu_copies.c - copies of a pool in host memory, which are done when a call returns. */
#include <string.h>

#include "pool/pool.h"

static flashmla_status open_pool(flashmla_pool *pool, void *stream) {
  const fm_pool_sizes *sizes = &pool->books.sizes;
  fm_pool_arrays *arrays = &pool->arrays;
  (void)stream;
  for (int32_t row = 0; row < sizes->rows; ++row)
    memset(arrays->block_table + row * arrays->row_step, 0xff, (size_t)sizes->max_blocks * sizeof(int32_t));
  memset(arrays->cache_seqlens, 0, (size_t)sizes->rows * sizeof(int32_t));
  memset(arrays->slot_mapping, 0xff, (size_t)sizes->slots * sizeof(int64_t));
  return FLASHMLA_OK;
}

static void close_pool(flashmla_pool *pool) { (void)pool; }

static flashmla_status copy(const void *with, void *to, const void *from, int64_t bytes) {
  (void)with;
  memcpy(to, from, (size_t)bytes);
  return FLASHMLA_OK;
}

static flashmla_status copy_blocks(flashmla_pool *pool, const fm_block_copy *copies, int32_t count, void *stream) {
  (void)stream;
  return fm_copy_pieces(pool, copies, count, FM_WITHIN_CACHES, copy, NULL);
}

static flashmla_status swap(flashmla_pool *pool, const fm_block_copy *copies, int32_t count, fm_route route,
                            void *stream) {
  (void)stream;
  return fm_copy_pieces(pool, copies, count, route, copy, NULL);
}

static flashmla_status wait_for_swap(flashmla_pool *pool, uint64_t number, void *stream) {
  (void)pool, (void)number, (void)stream;
  return FLASHMLA_OK;
}

static flashmla_status nothing(flashmla_pool *pool, void *stream) {
  (void)pool, (void)stream;
  return FLASHMLA_OK;
}

static flashmla_status upload(flashmla_pool *pool, void *to, const void *from, int64_t bytes, void *stream) {
  (void)pool, (void)stream;
  memcpy(to, from, (size_t)bytes);
  return FLASHMLA_OK;
}

const fm_pool_backend fm_pool_cpu = {.open = open_pool,
                                     .close = close_pool,
                                     .check_stream = nothing,
                                     .copy_blocks = copy_blocks,
                                     .swap = swap,
                                     .wait_for_swap = wait_for_swap,
                                     .begin_upload = nothing,
                                     .upload = upload,
                                     .end_upload = nothing};
