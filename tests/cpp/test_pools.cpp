/* test_pools.cpp - pools and sequences: who owns what, in both forms of failures. */
#include "fixture.hpp"

static_assert(moves_alone<flashmla::pool> && moves_alone<flashmla::sequence>);

static void sequences_end_with_their_objects() {
  const memory memory;
  flashmla::pool pool = memory.pool();
  {
    const flashmla::sequence sequence = grown(pool, 5);
    CHECK(sequence && sequence.name() != 0);
    CHECK(used_blocks(pool) == 2 && sequences(pool) == 1);
  }
  CHECK(used_blocks(pool) == 0 && sequences(pool) == 0);
  flashmla::sequence kept = grown(pool, 5), other = grown(pool, 1);
  kept = std::move(other); /* what it had ends, what it gets does not */
  CHECK(used_blocks(pool) == 1 && sequences(pool) == 1);
  flashmla::sequence &same = kept;
  kept = std::move(same);
  CHECK(kept && sequences(pool) == 1);
  CHECK_OK(kept.free());
  CHECK(!kept && sequences(pool) == 0);
  CHECK(CODE_OF(kept.free()) == FLASHMLA_ERROR_NULL_POINTER);
}

static void a_sequence_may_be_let_go_and_taken_over() {
  const memory memory;
  flashmla::pool pool = memory.pool();
  flashmla_sequence name = 0;
  {
    flashmla::sequence sequence = grown(pool, 3);
    name = sequence.release();
    CHECK(!sequence && name != 0);
  }
  CHECK(sequences(pool) == 1);
  CHECK(pool.own(name).name() == name);
  CHECK(sequences(pool) == 0);
}

static void a_sequence_may_outlive_its_pool() {
  const memory memory;
  flashmla::sequence sequence;
  {
    flashmla::pool pool = memory.pool();
    sequence = grown(pool, 3);
  }
  CHECK_OK(sequence.truncate(1));
}

static void what_was_moved_from_is_refused() {
  const memory memory;
  flashmla::pool pool = memory.pool(), moved = std::move(pool);
  CHECK(!pool && pool.get() == nullptr && moved);
  int64_t cached = 0, total = 0;
  uint64_t bytes = 0;
  flashmla::sequence sequence;
  flashmla_pool_usage usage = FLASHMLA_POOL_USAGE_INIT;
  flashmla_pool_sequence about = FLASHMLA_POOL_SEQUENCE_INIT;
  CHECK(CODE_OF(pool.allocate(nullptr, 0, sequence, cached)) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(CODE_OF(pool.append(nullptr, nullptr, 0, total)) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(CODE_OF(pool.match(nullptr, 0, cached)) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(CODE_OF(pool.update()) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(CODE_OF(pool.get_usage(usage)) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(CODE_OF(pool.save_size(bytes)) == FLASHMLA_ERROR_NULL_POINTER);

  flashmla::sequence first = grown(moved, 3), second = std::move(first);
  CHECK(!first && first.name() == 0 && second);
  CHECK(CODE_OF(first.append(1, total)) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(CODE_OF(first.fork(sequence)) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(CODE_OF(first.get(about)) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(CODE_OF(first.swap_out()) == FLASHMLA_ERROR_NULL_POINTER);
  CHECK(!sequence);
  first = grown(moved, 1); /* and may be filled again */
  CHECK(first && sequences(moved) == 2);
  pool = std::move(moved);
  CHECK(pool && !moved && sequences(pool) == 2);
}

static void a_call_that_fails_changes_no_object() {
  const memory memory;
  flashmla::pool pool = memory.pool();
  flashmla::sequence long_one = grown(pool, 16), sequence = grown(pool, 8);
  const flashmla_sequence name = sequence.name();
  int64_t total = -1, cached = -1;
  CHECK(CODE_OF(sequence.append(1, total)) == FLASHMLA_ERROR_OUT_OF_BLOCKS && total == -1);
  flashmla::sequence third = grown(pool, 0);
  CHECK(CODE_OF(long_one.fork(sequence)) == FLASHMLA_ERROR_TABLE_FULL && sequence.name() == name);
  CHECK(CODE_OF(pool.allocate(nullptr, 0, sequence, cached)) == FLASHMLA_ERROR_TABLE_FULL);
  CHECK(sequence.name() == name && sequences(pool) == 3);
  flashmla_pool_params wrong = memory.params();
  wrong.block_table = memory.cache_seqlens;
  const flashmla_pool *before = pool.get();
  CHECK(CODE_OF(pool.create(wrong)) == FLASHMLA_ERROR_SHAPE && pool.get() == before);
}

static void sequences_do_what_the_functions_do() {
  const memory memory;
  flashmla::pool pool = memory.pool();
  const std::vector<int64_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  flashmla::sequence sequence = grown(pool, 9), child, sharing;
  CHECK_OK(sequence.commit(tokens.data(), 9));
  int64_t cached = 0, total = 0;
  CHECK_OK(pool.match(tokens.data(), 9, cached));
  CHECK(cached == 8);
  CHECK_OK(pool.allocate(tokens.data(), 9, sharing, cached));
  CHECK(cached == 8 && used_blocks(pool) == 3);
  CHECK_OK(sequence.fork(child));
  const flashmla_sequence names[] = {sequence.name(), child.name()};
  const int32_t counts[] = {1, 2};
  CHECK_OK(pool.append(names, counts, 2, total));
  CHECK(total == 3 && used_blocks(pool) == 4);
  CHECK_OK(pool.update());
  flashmla_pool_sequence about = FLASHMLA_POOL_SEQUENCE_INIT;
  CHECK_OK(child.get(about));
  CHECK(about.length == 11 && memory.lengths[static_cast<std::size_t>(about.row)] == 11);
  int32_t blocks[COLUMNS] = {};
  CHECK_OK(child.get_blocks(blocks, COLUMNS));
  CHECK(memory.table[static_cast<std::size_t>(about.row * COLUMNS + 2)] == blocks[2]);
  CHECK(CODE_OF(child.get_blocks(blocks, 1)) == FLASHMLA_ERROR_VALUE);
  CHECK_OK(pool.hold(blocks[2]));
  CHECK_OK(child.truncate(8));
  CHECK_OK(child.free_head(4));
  CHECK_OK(child.get(about));
  CHECK(about.length == 8 && about.head_blocks == 1 && used_blocks(pool) == 4);
  CHECK_OK(pool.release(blocks[2]));
  CHECK(used_blocks(pool) == 3);
  CHECK(CODE_OF(pool.release(blocks[2])) == FLASHMLA_ERROR_BLOCK);
  CHECK_OK(sequence.swap_out());
  CHECK_OK(sequence.get(about));
  CHECK(about.row == -1 && about.length == 10);
  CHECK_OK(sequence.swap_in());
  CHECK_OK(sequence.get(about));
  CHECK(about.row >= 0);
}

static void books_are_saved_and_taken_over() {
  const memory memory;
  flashmla::pool pool = memory.pool(), other = memory.pool();
  flashmla::sequence sequence = grown(pool, 7);
  uint64_t bytes = 0;
  CHECK_OK(pool.save_size(bytes));
  const flashmla::buffer saved = flashmla::host_buffer(bytes);
  CHECK_OK(pool.save(saved.data(), saved.size()));
  CHECK(CODE_OF(pool.save(saved.data(), 1)) == FLASHMLA_ERROR_WORKSPACE_TOO_SMALL);
  CHECK(CODE_OF(other.load(saved.data(), bytes - 1)) == FLASHMLA_ERROR_STATE);
  CHECK_OK(other.load(saved.data(), bytes));
  const flashmla::sequence again = other.own(sequence.name());
  flashmla_pool_sequence about = FLASHMLA_POOL_SEQUENCE_INIT;
  CHECK_OK(again.get(about));
  CHECK(about.length == 7);
}

int main() {
  sequences_end_with_their_objects();
  a_sequence_may_be_let_go_and_taken_over();
  a_sequence_may_outlive_its_pool();
  what_was_moved_from_is_refused();
  a_call_that_fails_changes_no_object();
  sequences_do_what_the_functions_do();
  books_are_saved_and_taken_over();
  return 0;
}
