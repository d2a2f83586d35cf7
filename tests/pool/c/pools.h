/* pools.h - a valid call of flashmla_pool_create in host memory, for tests to change field by field. */
#ifndef POOLS_H_
#define POOLS_H_

#include "../../c/check.h"

enum { BLOCKS = 6, PAGE = 4, ROWS = 3, COLUMNS = 4, SLOTS = 16, HOST_BLOCKS = 5, LAYERS = 2, ROW = 8 };
enum { BLOCK_BYTES = LAYERS * PAGE * ROW * 4 };

typedef struct pools {
  _Alignas(16) float cache[LAYERS][BLOCKS][PAGE][1][ROW];
  int32_t table[ROWS][COLUMNS], lengths[ROWS];
  int64_t slots[SLOTS];
  _Alignas(16) unsigned char host[HOST_BLOCKS][BLOCK_BYTES];
  _Alignas(16) unsigned char staging[16384];
  int64_t cache_shape[5], table_shape[2], slots_shape[1], host_shape[2], staging_shape[1];
  DLTensor layer[LAYERS], stacked, block_table, cache_seqlens, slot_mapping, host_pool, staged;
  const DLTensor *layers[LAYERS];
  flashmla_pool_params params;
  flashmla_pool *pool;
} pools;

static inline DLTensor tensor_of(void *data, int32_t ndim, DLDataType dtype, int64_t *shape) {
  return (DLTensor){data, {kDLCPU, 0}, ndim, dtype, shape, NULL, 0};
}

static inline void pools_init(pools *p) {
  const DLDataType fp32 = {kDLFloat, 32, 1}, i32 = {kDLInt, 32, 1}, i64 = {kDLInt, 64, 1}, u8 = {kDLUInt, 8, 1};
  memset(p, 0, sizeof *p);
  const int64_t cache_shape[5] = {LAYERS, BLOCKS, PAGE, 1, ROW};
  memcpy(p->cache_shape, cache_shape, sizeof cache_shape);
  p->table_shape[0] = ROWS, p->table_shape[1] = COLUMNS;
  p->slots_shape[0] = SLOTS;
  p->host_shape[0] = HOST_BLOCKS, p->host_shape[1] = BLOCK_BYTES;
  p->staging_shape[0] = sizeof p->staging;
  for (int32_t i = 0; i < LAYERS; ++i) {
    p->layer[i] = tensor_of(p->cache[i], 4, fp32, p->cache_shape + 1);
    p->layers[i] = &p->layer[i];
  }
  p->stacked = tensor_of(p->cache, 5, fp32, p->cache_shape);
  p->block_table = tensor_of(p->table, 2, i32, p->table_shape);
  p->cache_seqlens = tensor_of(p->lengths, 1, i32, p->table_shape);
  p->slot_mapping = tensor_of(p->slots, 1, i64, p->slots_shape);
  p->host_pool = tensor_of(p->host, 2, u8, p->host_shape);
  p->staged = tensor_of(p->staging, 1, u8, p->staging_shape);
  p->params = (flashmla_pool_params)FLASHMLA_POOL_PARAMS_INIT;
  p->params.kv_cache = p->layers;
  p->params.num_layers = LAYERS;
  p->params.block_table = &p->block_table;
  p->params.cache_seqlens = &p->cache_seqlens;
  p->params.slot_mapping = &p->slot_mapping;
  p->params.host_pool = &p->host_pool;
}

/* With a pool, to be ended by pools_free. */
static inline void pools_make(pools *p) {
  pools_init(p);
  CHECK_OK(flashmla_pool_create(&p->params, &p->pool));
}
static inline void pools_free(pools *p) { flashmla_pool_destroy(p->pool); }

/* A sequence of `tokens` tokens. */
static inline flashmla_sequence add(pools *p, int32_t tokens) {
  flashmla_sequence made = 0;
  int64_t total = 0;
  CHECK_OK(flashmla_pool_allocate(p->pool, NULL, 0, &made, &total));
  CHECK_OK(flashmla_pool_append(p->pool, &made, &tokens, 1, NULL, &total));
  CHECK(total == tokens);
  return made;
}

static inline flashmla_pool_usage usage_of(pools *p) {
  flashmla_pool_usage usage = FLASHMLA_POOL_USAGE_INIT;
  CHECK_OK(flashmla_pool_get_usage(p->pool, &usage));
  return usage;
}

/* The state, of allocated memory. */
static inline unsigned char *saved(pools *p, uint64_t *bytes) {
  CHECK_OK(flashmla_pool_save_size(p->pool, bytes));
  unsigned char *made = malloc(*bytes);
  CHECK_OK(flashmla_pool_save(p->pool, made, *bytes));
  return made;
}

#endif /* POOLS_H_ */
