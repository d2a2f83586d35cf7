/* lifecycle.c - sequences that are forked, cut, lose their head, end. */
#include "pool/pool.h"

/* The blocks that a resident sequence has are its entries [head, end) of the table. */
static int32_t end_of(const fm_books *books, const fm_sequence *sequence) {
  return fm_blocks_of(books, sequence->length);
}

static flashmla_status fork_sequence(flashmla_pool *pool, flashmla_sequence name, flashmla_sequence *child) {
  fm_books *books = &pool->books;
  fm_sequence *parent;
  FM_TRY(fm_check_result(child, "child"));
  FM_TRY(fm_find_resident(books, name, &parent));
  FM_TRY(fm_check_room(books));
  fm_settle(pool, parent);
  fm_sequence *made = fm_add_sequence(books);
  const int32_t end = end_of(books, parent), *from = fm_row_of(books, parent);
  int32_t *to = fm_row_of(books, made);
  made->length = parent->length;
  made->head = parent->head;
  made->committed_blocks = parent->committed_blocks;
  made->chain = parent->chain;
  made->head_chain = parent->head_chain;
  for (int32_t i = 0; i < end; ++i) {
    to[i] = from[i];
    if (i >= parent->head) fm_refer(books, to[i]);
  }
  fm_show_sequence(pool, made, 0, end);
  *child = fm_name_of(books, made);
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_fork(flashmla_pool *pool, flashmla_sequence sequence, flashmla_sequence *child) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, fork_sequence(pool, sequence, child));
}

/* The hash of all tokens before block `end`, which was committed. */
static fm_hash chain_at(const fm_books *books, const fm_sequence *sequence, int32_t end) {
  if (end == sequence->committed_blocks) return sequence->chain;
  if (end == 0) return (fm_hash){{0, 0}};
  return end == sequence->head ? sequence->head_chain : books->blocks[fm_row_of(books, sequence)[end - 1]].hash;
}

static flashmla_status truncate_sequence(flashmla_pool *pool, flashmla_sequence name, int64_t length) {
  fm_books *books = &pool->books;
  fm_sequence *sequence;
  FM_TRY(fm_find_resident(books, name, &sequence));
  const int64_t least = (int64_t)sequence->head * books->sizes.page_size;
  if (length < least || length > sequence->length)
    return fm_fail(FLASHMLA_ERROR_VALUE, "length is %lld; sequence %llu has tokens [%lld, %d)", (long long)length,
                   (unsigned long long)name, (long long)least, sequence->length);
  fm_drop_blocks(books, sequence, fm_blocks_of(books, length), end_of(books, sequence));
  const int32_t full = (int32_t)(length / books->sizes.page_size);
  if (full < sequence->committed_blocks) {
    sequence->chain = chain_at(books, sequence, full);
    sequence->committed_blocks = full;
  }
  sequence->length = (int32_t)length;
  fm_settle(pool, sequence);
  fm_show_sequence(pool, sequence, 0, 0);
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_truncate(flashmla_pool *pool, flashmla_sequence sequence, int64_t length) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, truncate_sequence(pool, sequence, length));
}

static flashmla_status free_head(flashmla_pool *pool, flashmla_sequence name, int64_t first) {
  fm_books *books = &pool->books;
  fm_sequence *sequence;
  FM_TRY(fm_find_resident(books, name, &sequence));
  if (first < 0 || first > sequence->length)
    return fm_fail(FLASHMLA_ERROR_VALUE, "first is %lld; it must be in [0, %d], the length of sequence %llu",
                   (long long)first, sequence->length, (unsigned long long)name);
  const int32_t head = (int32_t)(first / books->sizes.page_size);
  fm_settle(pool, sequence);
  if (head <= sequence->head) return FLASHMLA_OK;
  if (head <= sequence->committed_blocks) sequence->head_chain = chain_at(books, sequence, head);
  fm_drop_blocks(books, sequence, sequence->head, head);
  for (int32_t i = sequence->head; i < head; ++i) fm_row_of(books, sequence)[i] = FM_NONE;
  fm_show_sequence(pool, sequence, sequence->head, head);
  sequence->head = head;
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_free_head(flashmla_pool *pool, flashmla_sequence sequence, int64_t first) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, free_head(pool, sequence, first));
}

static flashmla_status free_sequence(flashmla_pool *pool, flashmla_sequence name) {
  fm_books *books = &pool->books;
  fm_sequence *sequence;
  FM_TRY(fm_find_sequence(books, name, &sequence));
  const int32_t end = end_of(books, sequence);
  if (sequence->state == FM_SWAPPED) {
    fm_give_host_blocks(books, sequence->host_first, end - sequence->head);
    --books->num_swapped;
  } else {
    fm_settle(pool, sequence);
    fm_drop_blocks(books, sequence, sequence->head, end);
    fm_show_length(pool, sequence->row, 0);
    fm_give_row(books, sequence);
  }
  fm_remove_record(books, sequence);
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_free(flashmla_pool *pool, flashmla_sequence sequence) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, free_sequence(pool, sequence));
}

static flashmla_status find_used(const fm_books *books, int32_t block, bool held) {
  if (block < 0 || block >= books->sizes.num_blocks)
    return fm_fail(FLASHMLA_ERROR_BLOCK, "block %d is none of this pool; it must be in [0, %d)", block,
                   books->sizes.num_blocks);
  if (!held && books->blocks[block].references == 0)
    return fm_fail(FLASHMLA_ERROR_BLOCK, "block %d is not in use; a block of a sequence may be held", block);
  if (held && books->blocks[block].holds == 0)
    return fm_fail(FLASHMLA_ERROR_BLOCK, "block %d is not held; each hold is released once", block);
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_hold(flashmla_pool *pool, int32_t block) {
  FM_TRY(fm_enter_pool(pool));
  fm_books *books = &pool->books;
  flashmla_status status = find_used(books, block, false);
  if (status == FLASHMLA_OK && books->blocks[block].holds == FM_MOST_HOLDS)
    status = fm_fail(FLASHMLA_ERROR_OVERFLOW, "block %d has 2^30 holds; there may be no more", block);
  if (status == FLASHMLA_OK) {
    fm_refer(books, block);
    ++books->blocks[block].holds;
  }
  return fm_leave_pool(pool, status);
}

flashmla_status flashmla_pool_release(flashmla_pool *pool, int32_t block) {
  FM_TRY(fm_enter_pool(pool));
  const flashmla_status status = find_used(&pool->books, block, true);
  if (status == FLASHMLA_OK) {
    --pool->books.blocks[block].holds;
    fm_unrefer(&pool->books, block);
  }
  return fm_leave_pool(pool, status);
}
