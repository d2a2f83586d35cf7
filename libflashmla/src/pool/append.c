/* append.c - room for new tokens: blocks, copies of what is shared, lengths and slots. */
#include "core/arith.h"
#include "pool/pool.h"

/* A call: its sequences and how many tokens each gets. */
typedef struct fm_appending {
  const flashmla_sequence *names;
  const int32_t *counts;
  int32_t num;
  bool tails; /* found while it is checked: some sequence writes into a block that is not just its own */
} fm_appending;

static int32_t count_of(const fm_appending *call, int32_t i) { return call->counts != NULL ? call->counts[i] : 1; }

/* The entry of the last block where new tokens go into it; FM_NONE where they begin a block. */
static int32_t tail_of(const fm_books *books, const fm_sequence *sequence) {
  return sequence->length % books->sizes.page_size == 0 ? FM_NONE : sequence->length / books->sizes.page_size;
}

/* Of sequences that have the same last block all but one get a copy, and that one too where others have it. */
static int32_t copies_for(fm_books *books, const fm_sequence *sequence, fm_appending *call) {
  const int32_t tail = tail_of(books, sequence);
  if (tail == FM_NONE) return 0;
  fm_block *block = &books->blocks[fm_row_of(books, sequence)[tail]];
  if (block->references == 1 && !block->published && block->busy == 0) return 0;
  call->tails = true;
  return block->references > 1 && ++block->appenders < block->references ? 1 : 0;
}

static flashmla_status check_sequence(fm_books *books, fm_appending *call, int32_t i, int64_t *tokens,
                                      int64_t *blocks) {
  fm_sequence *sequence;
  const int32_t count = count_of(call, i);
  const unsigned long long name = call->names[i];
  FM_TRY(fm_find_resident(books, call->names[i], &sequence));
  if (sequence->met == books->calls)
    return fm_fail(FLASHMLA_ERROR_VALUE, "sequence %llu is named twice; once is enough, with all of its tokens", name);
  if (count < 0) return fm_fail(FLASHMLA_ERROR_VALUE, "sequence %llu gets %d tokens; it must be >= 0", name, count);
  const int64_t length = (int64_t)sequence->length + count;
  const int64_t most = fm_min64((int64_t)books->sizes.max_blocks * books->sizes.page_size, INT32_MAX);
  if (length > most)
    return fm_fail(FLASHMLA_ERROR_CAPACITY,
                   "sequence %llu would have %lld tokens; its row of block_table has room for %lld", name,
                   (long long)length, (long long)most);
  sequence->met = books->calls;
  *tokens += count;
  *blocks += fm_blocks_of(books, length) - fm_blocks_of(books, sequence->length);
  if (count > 0) *blocks += copies_for(books, sequence, call);
  return FLASHMLA_OK;
}

/* Undoes the marks of copies_for. */
static void forget_appenders(fm_books *books, const fm_appending *call, int32_t num) {
  for (int32_t i = 0; i < num; ++i) {
    fm_sequence *sequence;
    if (fm_find_resident(books, call->names[i], &sequence) != FLASHMLA_OK) continue;
    const int32_t tail = tail_of(books, sequence);
    if (tail != FM_NONE) books->blocks[fm_row_of(books, sequence)[tail]].appenders = 0;
  }
}

static flashmla_status check_blocks(const fm_books *books, int64_t tokens, int64_t blocks) {
  if (tokens > books->sizes.slots)
    return fm_fail(FLASHMLA_ERROR_CAPACITY, "%lld tokens are appended; slot_mapping has room for %d", (long long)tokens,
                   books->sizes.slots);
  if (blocks <= fm_available(books)) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_OUT_OF_BLOCKS,
                 "%lld blocks are needed, %d of %d are free and %d cached; free a sequence or swap one out",
                 (long long)blocks, books->free.count, books->sizes.num_blocks, books->cached.count);
}

static flashmla_status check(fm_books *books, fm_appending *call, int64_t *tokens) {
  int64_t blocks = 0;
  int32_t checked = 0;
  flashmla_status status = FLASHMLA_OK;
  ++books->calls;
  while (checked < call->num && status == FLASHMLA_OK) {
    status = check_sequence(books, call, checked, tokens, &blocks);
    checked += status == FLASHMLA_OK ? 1 : 0;
  }
  if (call->tails) forget_appenders(books, call, checked);
  return status == FLASHMLA_OK ? check_blocks(books, *tokens, blocks) : status;
}

/* The last block of a sequence is its own from here on: what others have, too, gets a copy, in which it takes part from
 * now on, and its content is no prefix any more. Returns how many copies there are then. */
static int32_t own_tail(flashmla_pool *pool, fm_sequence *sequence, int32_t copies) {
  fm_books *books = &pool->books;
  const int32_t tail = tail_of(books, sequence);
  if (tail == FM_NONE) return copies;
  int32_t *entry = &fm_row_of(books, sequence)[tail];
  fm_block *block = &books->blocks[*entry];
  fm_wait_for(books, block->busy);
  if (block->references == 1) {
    if (block->published) fm_unpublish(books, *entry);
    return copies;
  }
  const int32_t made = fm_take_block(books);
  pool->copies[copies] = (fm_block_copy){*entry, made};
  pool->replaced[copies] = (fm_replaced){sequence, tail};
  fm_unrefer(books, *entry);
  *entry = made;
  fm_mark_row(pool, sequence->row, tail, tail + 1);
  return copies + 1;
}

static void take_back(flashmla_pool *pool, int32_t copies) {
  for (int32_t i = copies; i-- > 0;) {
    const fm_replaced *of = &pool->replaced[i];
    fm_refer(&pool->books, pool->copies[i].from);
    fm_row_of(&pool->books, of->sequence)[of->entry] = pool->copies[i].from;
    fm_unrefer(&pool->books, pool->copies[i].to);
  }
}

static flashmla_status own_tails(flashmla_pool *pool, const fm_appending *call, void *stream) {
  int32_t copies = 0;
  for (int32_t i = 0; i < call->num; ++i) {
    fm_sequence *sequence;
    FM_TRY(fm_find_resident(&pool->books, call->names[i], &sequence)); /* never fails: it was found before */
    if (count_of(call, i) > 0) copies = own_tail(pool, sequence, copies);
  }
  if (copies == 0) return FLASHMLA_OK;
  flashmla_status status = fm_wait_for_swaps(pool, stream);
  if (status == FLASHMLA_OK) status = pool->backend->copy_blocks(pool, pool->copies, copies, stream);
  if (status != FLASHMLA_OK) take_back(pool, copies);
  return status;
}

static int32_t extend(flashmla_pool *pool, fm_sequence *sequence, int32_t count, int32_t slot) {
  fm_books *books = &pool->books;
  const int32_t page_size = books->sizes.page_size, before = fm_blocks_of(books, sequence->length);
  const int32_t after = fm_blocks_of(books, (int64_t)sequence->length + count);
  int32_t *row = fm_row_of(books, sequence);
  for (int32_t i = before; i < after; ++i) row[i] = fm_take_block(books);
  int32_t entry = sequence->length / page_size, place = sequence->length % page_size;
  for (int32_t i = 0; i < count; ++i) {
    pool->arrays.slots[slot++] = (int64_t)row[entry] * page_size + place;
    if (++place == page_size) ++entry, place = 0;
  }
  sequence->length += count;
  fm_settle(pool, sequence);
  fm_show_sequence(pool, sequence, before, after);
  return slot;
}

static flashmla_status append(flashmla_pool *pool, fm_appending *call, void *stream, int64_t *total) {
  fm_pool_arrays *arrays = &pool->arrays;
  int64_t tokens = 0;
  int32_t slot = 0;
  FM_TRY(check(&pool->books, call, &tokens));
  FM_TRY(pool->backend->check_stream(pool, stream)); /* that the update which follows would refuse */
  if (call->tails) FM_TRY(own_tails(pool, call, stream));
  for (int32_t i = 0; i < call->num; ++i) {
    fm_sequence *sequence;
    FM_TRY(fm_find_resident(&pool->books, call->names[i], &sequence)); /* never fails */
    slot = extend(pool, sequence, count_of(call, i), slot);
  }
  for (int32_t i = slot; i < arrays->num_slots || i < arrays->shown_slots; ++i) arrays->slots[i] = -1;
  arrays->num_slots = slot;
  arrays->slots_dirty = true;
  *total = tokens;
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_append(flashmla_pool *pool, const flashmla_sequence *sequences, const int32_t *counts,
                                     int32_t num_sequences, void *stream, int64_t *total) {
  FM_TRY(fm_enter_pool(pool));
  flashmla_status status = fm_check_result(total, "total");
  if (status == FLASHMLA_OK && num_sequences < 0)
    status = fm_fail(FLASHMLA_ERROR_VALUE, "num_sequences is %d; it must be >= 0", num_sequences);
  if (status == FLASHMLA_OK && num_sequences > 0 && sequences == NULL)
    status = fm_fail(FLASHMLA_ERROR_NULL_POINTER, "sequences is NULL; there are %d", num_sequences);
  fm_appending call = {.names = sequences, .counts = counts, .num = num_sequences};
  if (status == FLASHMLA_OK) status = append(pool, &call, stream, total);
  return fm_leave_pool(pool, status);
}
