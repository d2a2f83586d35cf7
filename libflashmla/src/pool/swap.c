/* swap.c - sequences out to the host's blocks and back. */
#include "pool/pool.h"

static flashmla_status check_host(const flashmla_pool *pool) {
  if (pool->memory.host != NULL) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_VALUE, "the pool has no host_pool; sequences are swapped out to one");
}

static flashmla_status swap(flashmla_pool *pool, int32_t copies, fm_route route, void *stream) {
  if (copies == 0) return FLASHMLA_OK;
  FM_TRY(pool->backend->swap(pool, pool->copies, copies, route, stream));
  ++pool->swaps;
  return FLASHMLA_OK;
}

static flashmla_status swap_out(flashmla_pool *pool, flashmla_sequence name, void *stream) {
  fm_books *books = &pool->books;
  fm_sequence *sequence;
  FM_TRY(check_host(pool));
  FM_TRY(fm_find_resident(books, name, &sequence));
  const int32_t head = sequence->head, end = fm_blocks_of(books, sequence->length), *row = fm_row_of(books, sequence);
  if (end - head > books->num_free_host)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_HOST_BLOCKS, "sequence %llu has %d blocks, %d of %d of host_pool are free",
                   (unsigned long long)name, end - head, books->num_free_host, books->sizes.host_blocks);
  const int32_t first = fm_take_host_blocks(books, end - head);
  for (int32_t i = head, host = first; i < end; ++i, host = books->host_next[host]) {
    pool->copies[i - head] = (fm_block_copy){row[i], host};
    if (i < sequence->committed_blocks) books->host_hashes[host] = books->blocks[row[i]].hash;
  }
  const flashmla_status status = swap(pool, end - head, FM_TO_HOST, stream);
  if (status != FLASHMLA_OK) {
    fm_give_host_blocks(books, first, end - head);
    return status;
  }
  for (int32_t i = head; i < end; ++i) books->blocks[row[i]].busy = pool->swaps;
  fm_drop_blocks(books, sequence, head, end);
  fm_show_length(pool, sequence->row, 0);
  fm_give_row(books, sequence);
  sequence->host_first = first;
  sequence->state = FM_SWAPPED;
  ++books->num_swapped;
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_swap_out(flashmla_pool *pool, flashmla_sequence sequence, void *stream) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, swap_out(pool, sequence, stream));
}

/* The block on the device that still has what block `i` of the sequence had; FM_NONE: it has to be copied. */
static int32_t still_there(const fm_books *books, const fm_sequence *sequence, int32_t i, int32_t host) {
  return i < sequence->committed_blocks ? fm_find_published(books, books->host_hashes[host]) : FM_NONE;
}

static flashmla_status check_blocks(const fm_books *books, const fm_sequence *sequence, int32_t end) {
  int64_t needed = 0, available = fm_available(books);
  int32_t host = sequence->host_first;
  for (int32_t i = sequence->head; i < end; ++i, host = books->host_next[host]) {
    const int32_t block = still_there(books, sequence, i, host);
    if (block == FM_NONE)
      ++needed;
    else if (books->blocks[block].references == 0)
      --available;
  }
  if (needed <= available) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_OUT_OF_BLOCKS, "%lld blocks are needed, %d of %d are free and %d cached",
                 (long long)needed, books->free.count, books->sizes.num_blocks, books->cached.count);
}

/* Blocks for the entries [head, end) of its new row; those that are copied are in pool->copies, as many as returned. */
static int32_t take_blocks(flashmla_pool *pool, const fm_sequence *sequence, int32_t end) {
  fm_books *books = &pool->books;
  int32_t *row = fm_row_of(books, sequence), copies = 0, host = sequence->host_first;
  for (int32_t i = 0; i < sequence->head; ++i) row[i] = FM_NONE;
  for (int32_t i = sequence->head; i < end; ++i, host = books->host_next[host]) {
    row[i] = still_there(books, sequence, i, host);
    if (row[i] != FM_NONE) fm_refer(books, row[i]); /* before others are taken, and perhaps it */
  }
  host = sequence->host_first;
  for (int32_t i = sequence->head; i < end; ++i, host = books->host_next[host]) {
    if (row[i] != FM_NONE) continue;
    row[i] = fm_take_block(books);
    pool->copies[copies++] = (fm_block_copy){host, row[i]};
  }
  return copies;
}

/* What was committed is a prefix that others may begin with, as before. */
static void publish_again(flashmla_pool *pool, const fm_sequence *sequence, int32_t end) {
  fm_books *books = &pool->books;
  const int32_t *row = fm_row_of(books, sequence);
  int32_t host = sequence->host_first;
  for (int32_t i = sequence->head; i < end; ++i, host = books->host_next[host]) {
    fm_block *block = &books->blocks[row[i]];
    if (block->published) continue;
    block->busy = sequence->arrival;
    if (i >= sequence->committed_blocks) continue;
    const fm_hash hash = books->host_hashes[host]; /* published already: a loaded state had it twice */
    if (fm_find_published(books, hash) == FM_NONE) fm_publish(books, row[i], hash);
  }
}

static flashmla_status swap_in(flashmla_pool *pool, flashmla_sequence name, void *stream) {
  fm_books *books = &pool->books;
  fm_sequence *sequence;
  FM_TRY(check_host(pool));
  FM_TRY(fm_find_sequence(books, name, &sequence));
  if (sequence->state != FM_SWAPPED)
    return fm_fail(FLASHMLA_ERROR_SEQUENCE, "sequence %llu is not swapped out", (unsigned long long)name);
  const int32_t head = sequence->head, end = fm_blocks_of(books, sequence->length);
  FM_TRY(fm_check_row(books));
  FM_TRY(check_blocks(books, sequence, end));
  fm_take_row(books, sequence);
  const int32_t copies = take_blocks(pool, sequence, end);
  const flashmla_status status = swap(pool, copies, FM_FROM_HOST, stream);
  if (status != FLASHMLA_OK) {
    fm_drop_blocks(books, sequence, head, end);
    fm_give_row(books, sequence);
    return status;
  }
  sequence->arrival = pool->swaps;
  sequence->state = FM_ARRIVING;
  --books->num_swapped;
  publish_again(pool, sequence, end);
  fm_give_host_blocks(books, sequence->host_first, end - head);
  sequence->host_first = FM_NONE;
  fm_show_sequence(pool, sequence, 0, end);
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_swap_in(flashmla_pool *pool, flashmla_sequence sequence, void *stream) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, swap_in(pool, sequence, stream));
}
