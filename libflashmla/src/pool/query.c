/* query.c - what a pool tells. */
#include <string.h>

#include "core/params.h"
#include "pool/pool.h"

/* Copies a struct to a caller who may know a shorter or a longer one; what this library does not know becomes 0. */
static flashmla_status tell(void *given, const fm_struct *known, const void *told) {
  uint32_t size;
  FM_TRY(fm_check_result(given, known->name));
  FM_TRY(fm_read_struct_size(given, known, &size));
  const uint32_t used = size < known->size ? size : known->size;
  memset((char *)given + sizeof size, 0, size - sizeof size);
  memcpy((char *)given + sizeof size, (const char *)told + sizeof size, used - sizeof size);
  return FLASHMLA_OK;
}

static flashmla_status tell_usage(const fm_books *books, flashmla_pool_usage *usage) {
  static const uint16_t ends[] = {FM_END(flashmla_pool_usage, swapped_sequences)};
  static const fm_struct known = FM_STRUCT("usage", flashmla_pool_usage, ends);
  const fm_pool_sizes *sizes = &books->sizes;
  const flashmla_pool_usage told = {.num_blocks = sizes->num_blocks,
                                    .free_blocks = books->free.count,
                                    .cached_blocks = books->cached.count,
                                    .used_blocks = sizes->num_blocks - books->free.count - books->cached.count,
                                    .shared_blocks = books->shared,
                                    .num_host_blocks = sizes->host_blocks,
                                    .free_host_blocks = books->num_free_host,
                                    .max_seqs = sizes->rows,
                                    .free_rows = books->num_free_rows,
                                    .sequences = books->num_sequences,
                                    .swapped_sequences = books->num_swapped};
  return tell(usage, &known, &told);
}

flashmla_status flashmla_pool_get_usage(flashmla_pool *pool, flashmla_pool_usage *usage) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, tell_usage(&pool->books, usage));
}

static int32_t blocks_of(const fm_books *books, const fm_sequence *sequence) {
  return fm_blocks_of(books, sequence->length) - sequence->head;
}

static flashmla_status tell_sequence(fm_books *books, flashmla_sequence name, flashmla_pool_sequence *about) {
  static const uint16_t ends[] = {FM_END(flashmla_pool_sequence, committed)};
  static const fm_struct known = FM_STRUCT("about", flashmla_pool_sequence, ends);
  fm_sequence *sequence;
  FM_TRY(fm_find_sequence(books, name, &sequence));
  const flashmla_pool_sequence told = {.row = sequence->row,
                                       .length = sequence->length,
                                       .num_blocks = blocks_of(books, sequence),
                                       .head_blocks = sequence->head,
                                       .committed = sequence->committed_blocks * books->sizes.page_size};
  return tell(about, &known, &told);
}

flashmla_status flashmla_pool_get_sequence(flashmla_pool *pool, flashmla_sequence sequence,
                                           flashmla_pool_sequence *about) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, tell_sequence(&pool->books, sequence, about));
}

static flashmla_status tell_blocks(fm_books *books, flashmla_sequence name, int32_t *blocks, int32_t capacity) {
  fm_sequence *sequence;
  FM_TRY(fm_find_sequence(books, name, &sequence));
  const int32_t count = blocks_of(books, sequence);
  if (count > capacity)
    return fm_fail(FLASHMLA_ERROR_VALUE, "capacity is %d; sequence %llu has %d blocks", capacity,
                   (unsigned long long)name, count);
  if (count == 0) return FLASHMLA_OK;
  FM_TRY(fm_check_result(blocks, "blocks"));
  int32_t host = sequence->host_first;
  for (int32_t i = 0; i < count; ++i) {
    const bool swapped = sequence->state == FM_SWAPPED;
    blocks[i] = swapped ? host : fm_row_of(books, sequence)[sequence->head + i];
    if (swapped) host = books->host_next[host];
  }
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_get_blocks(flashmla_pool *pool, flashmla_sequence sequence, int32_t *blocks,
                                         int32_t capacity) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, tell_blocks(&pool->books, sequence, blocks, capacity));
}
