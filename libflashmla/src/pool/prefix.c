/* prefix.c - sequences that begin with the same tokens: blocks are published under a hash of all tokens up to their
 * end.
 */
#include "core/arith.h"
#include "pool/pool.h"

static fm_hash chained(const fm_books *books, fm_hash parent, const int64_t *tokens) {
  fm_hashing hashing;
  fm_hash_begin(&hashing, books->key);
  fm_hash_words(&hashing, parent.word, 2);
  fm_hash_words(&hashing, (const uint64_t *)tokens, books->sizes.page_size);
  return fm_hash_end(&hashing);
}

static flashmla_status check_tokens(const int64_t *tokens, int64_t num_tokens) {
  if (num_tokens < 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{num_tokens is|the tokens are} %lld; it must be >= 0", (long long)num_tokens);
  if (num_tokens > 0 && tokens == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "tokens is NULL; there are %lld", (long long)num_tokens);
  return FLASHMLA_OK;
}

/* The published blocks that the tokens begin with, handed to `use` one by one; how many there are. One token is left.
 */
static int32_t match(fm_books *books, const int64_t *tokens, int64_t num_tokens, fm_sequence *use) {
  const int64_t most = num_tokens > 0 ? (num_tokens - 1) / books->sizes.page_size : 0;
  const int32_t end = (int32_t)fm_min64(most, books->sizes.max_blocks);
  int32_t matched = 0;
  fm_hash hash = {{0, 0}};
  for (; matched < end; ++matched) {
    hash = chained(books, hash, tokens + (int64_t)matched * books->sizes.page_size);
    const int32_t block = fm_find_published(books, hash);
    if (block == FM_NONE) break;
    if (use == NULL) continue;
    fm_refer(books, block);
    fm_wait_for(books, books->blocks[block].busy); /* a swap may be bringing it */
    fm_row_of(books, use)[matched] = block;
    use->chain = hash;
  }
  return matched;
}

static flashmla_status allocate(flashmla_pool *pool, const int64_t *tokens, int64_t num_tokens, flashmla_sequence *name,
                                int64_t *cached) {
  fm_books *books = &pool->books;
  FM_TRY(fm_check_result(name, "sequence"));
  FM_TRY(fm_check_result(cached, "cached"));
  FM_TRY(check_tokens(tokens, num_tokens));
  FM_TRY(fm_check_room(books));
  fm_sequence *sequence = fm_add_sequence(books);
  sequence->committed_blocks = match(books, tokens, num_tokens, sequence);
  sequence->length = sequence->committed_blocks * books->sizes.page_size;
  fm_show_sequence(pool, sequence, 0, sequence->committed_blocks);
  *name = fm_name_of(books, sequence);
  *cached = sequence->length;
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_allocate(flashmla_pool *pool, const int64_t *tokens, int64_t num_tokens,
                                       flashmla_sequence *sequence, int64_t *cached) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, allocate(pool, tokens, num_tokens, sequence, cached));
}

flashmla_status flashmla_pool_match(flashmla_pool *pool, const int64_t *tokens, int64_t num_tokens, int64_t *cached) {
  FM_TRY(fm_enter_pool(pool));
  flashmla_status status = fm_check_result(cached, "cached");
  if (status == FLASHMLA_OK) status = check_tokens(tokens, num_tokens);
  if (status == FLASHMLA_OK)
    *cached = (int64_t)match(&pool->books, tokens, num_tokens, NULL) * pool->books.sizes.page_size;
  return fm_leave_pool(pool, status);
}

static flashmla_status commit(flashmla_pool *pool, flashmla_sequence name, const int64_t *tokens, int64_t num_tokens) {
  fm_books *books = &pool->books;
  fm_sequence *sequence;
  FM_TRY(fm_find_resident(books, name, &sequence));
  FM_TRY(check_tokens(tokens, num_tokens));
  if (num_tokens > sequence->length)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{num_tokens is|the tokens are} %lld; sequence %llu has %d",
                   (long long)num_tokens, (unsigned long long)name, sequence->length);
  const int32_t *row = fm_row_of(books, sequence), end = (int32_t)(num_tokens / books->sizes.page_size);
  fm_settle(pool, sequence);
  for (int32_t i = sequence->committed_blocks; i < end; ++i) {
    sequence->chain = chained(books, sequence->chain, tokens + (int64_t)i * books->sizes.page_size);
    sequence->committed_blocks = i + 1;
    if (i + 1 == sequence->head) sequence->head_chain = sequence->chain;
    if (i < sequence->head || books->blocks[row[i]].published) continue;
    if (fm_find_published(books, sequence->chain) == FM_NONE)
      fm_publish(books, row[i], sequence->chain);
    else
      books->blocks[row[i]].hash = sequence->chain;
  }
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_commit(flashmla_pool *pool, flashmla_sequence sequence, const int64_t *tokens,
                                     int64_t num_tokens) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, commit(pool, sequence, tokens, num_tokens));
}
