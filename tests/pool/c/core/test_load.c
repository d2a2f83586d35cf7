/* Saved states that were torn, or made by an enemy who can compute checksums: they are refused, or whatever they say is
 * consistent, so that a pool works on with them. Under sanitizers no index goes astray. */
#include "../fake_pool.h"
#include "../pools.h"
#include "pool/pool.h"
#include "pool/state.h"

enum { TRIALS = 60000, MOST_NAMES = ROWS + HOST_BLOCKS };

static uint64_t seed = 1;
static uint32_t draw(uint32_t limit) {
  seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)(seed >> 33) % limit;
}

/* A pool with sequences of all kinds: forked, committed, without a head, swapped out; a held block, a cached one. */
static unsigned char *rich_state(pools *p, uint64_t *bytes) {
  static const int64_t ids[16] = {1, 2, 3, 4, 5, 6, 7, 8};
  flashmla_sequence child;
  int64_t cached;
  pools_make(p);
  const flashmla_sequence first = add(p, 9);
  CHECK_OK(flashmla_pool_commit(p->pool, first, ids, 8));
  CHECK_OK(flashmla_pool_fork(p->pool, first, &child));
  CHECK_OK(flashmla_pool_swap_out(p->pool, child, NULL));
  CHECK_OK(flashmla_pool_free_head(p->pool, first, 4));
  const flashmla_sequence second = add(p, 2);
  CHECK_OK(flashmla_pool_hold(p->pool, 3));
  CHECK_OK(flashmla_pool_free(p->pool, second));
  CHECK_OK(flashmla_pool_allocate(p->pool, ids, 5, &child, &cached));
  CHECK(cached == 4);
  CHECK_OK(flashmla_pool_free(p->pool, child));
  CHECK(usage_of(p).cached_blocks == 1);
  return saved(p, bytes);
}

static void seal(unsigned char *state, uint64_t bytes) {
  fm_state_header header;
  memcpy(&header, state, sizeof header);
  header.sum = fm_state_sum(state + FM_SUMMED_FROM, bytes - FM_SUMMED_FROM);
  memcpy(state, &header, sizeof header);
}

/* Loads, and says whether it went. */
static int loads(pools *p, const unsigned char *state, uint64_t bytes) {
  const flashmla_status status = flashmla_pool_load(p->pool, state, bytes);
  CHECK(status == FLASHMLA_OK || status == FLASHMLA_ERROR_STATE);
  return status == FLASHMLA_OK;
}

/* Names of the sequences in a state. */
static int32_t names_in(const unsigned char *state, flashmla_sequence names[MOST_NAMES]) {
  fm_state_header header;
  int32_t count = 0;
  memcpy(&header, state, sizeof header);
  for (int32_t i = 0; i < header.sizes.max_sequences && i < MOST_NAMES; ++i) {
    fm_saved_sequence record;
    memcpy(&record, state + sizeof header + BLOCKS * sizeof(fm_saved_block) + (size_t)i * sizeof record, sizeof record);
    if (record.state != FM_NOWHERE) names[count++] = header.tag << 56 | (uint64_t)record.generation << 24 | (uint64_t)i;
  }
  return count;
}

/* Calls whose answers do not matter, then an end of everything that there is. */
static void use(pools *p, const unsigned char *state) {
  static const int64_t ids[16] = {1, 2, 3, 4, 5, 6, 7, 8};
  flashmla_sequence names[MOST_NAMES + 24];
  int32_t count = names_in(state, names);
  flashmla_status ignored = FLASHMLA_OK;
  for (int32_t i = 0; i < 12 && count > 0; ++i) {
    const flashmla_sequence name = names[draw((uint32_t)count)];
    const int32_t tokens = (int32_t)draw(6);
    int64_t total;
    switch (draw(8)) {
      case 0:
        ignored = flashmla_pool_append(p->pool, &name, &tokens, 1, NULL, &total);
        break;
      case 1:
        ignored = flashmla_pool_append(p->pool, names, NULL, count, NULL, &total);
        break;
      case 2:
        count += flashmla_pool_fork(p->pool, name, &names[count]) == FLASHMLA_OK;
        break;
      case 3:
        ignored = flashmla_pool_truncate(p->pool, name, tokens);
        break;
      case 4:
        ignored = flashmla_pool_free_head(p->pool, name, tokens);
        break;
      case 5:
        ignored = flashmla_pool_commit(p->pool, name, ids, tokens);
        break;
      case 6:
        ignored = flashmla_pool_swap_out(p->pool, name, NULL);
        break;
      default:
        ignored = flashmla_pool_swap_in(p->pool, name, NULL);
        break;
    }
  }
  (void)ignored;
  CHECK_OK(flashmla_pool_update(p->pool, NULL));
  for (int32_t i = 0; i < count; ++i) CHECK_OK(flashmla_pool_free(p->pool, names[i]));
  for (int32_t block = 0; block < BLOCKS; ++block)
    while (flashmla_pool_release(p->pool, block) == FLASHMLA_OK) continue;
  const flashmla_pool_usage usage = usage_of(p);
  CHECK(usage.used_blocks == 0 && usage.free_blocks + usage.cached_blocks == BLOCKS && usage.shared_blocks == 0);
  CHECK(usage.free_rows == ROWS && usage.free_host_blocks == HOST_BLOCKS && usage.sequences == 0);
}

static uint32_t hostile_word(void) {
  static const uint32_t words[] = {0, 1, 2, 3, 4, BLOCKS, BLOCKS - 1, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffe};
  return draw(4) == 0 ? draw(UINT32_MAX) : words[draw(sizeof words / sizeof *words)];
}

/* Holds that would take long to release are left out. */
static int few_holds(const unsigned char *state) {
  for (int32_t i = 0; i < BLOCKS; ++i) {
    fm_saved_block block;
    memcpy(&block, state + sizeof(fm_state_header) + (size_t)i * sizeof block, sizeof block);
    if (block.holds > 100) return 0;
  }
  return 1;
}

/* A state that has one hash for two blocks in host memory: what a pool saves that has it loads again. */
static void one_hash_of_two_host_blocks(void) {
  static const int64_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  pools p, q;
  uint64_t bytes, again_bytes;
  pools_make(&p);
  const flashmla_sequence swapped = add(&p, 8);
  CHECK_OK(flashmla_pool_commit(p.pool, swapped, ids, 8));
  CHECK_OK(flashmla_pool_swap_out(p.pool, swapped, NULL));
  const flashmla_sequence others[] = {add(&p, 16), add(&p, 8)}; /* of whose blocks two were published */
  unsigned char *state = saved(&p, &bytes);
  const fm_books *books = &p.pool->books;
  fm_sequence *sequence;
  CHECK_OK(fm_find_sequence(&p.pool->books, swapped, &sequence));
  const int32_t first = sequence->host_first, second = books->host_next[first];
  uint64_t place = bytes - sizeof(fm_hash); /* the last one is of host memory */
  while (place > 0 && memcmp(state + place, &books->host_hashes[second], sizeof(fm_hash)) != 0) place -= 4;
  CHECK(place > 0);
  memcpy(state + place, &books->host_hashes[first], sizeof(fm_hash));
  seal(state, bytes);
  pools_free(&p);
  pools_make(&p);
  CHECK_OK(flashmla_pool_load(p.pool, state, bytes));
  for (int i = 0; i < 2; ++i) CHECK_OK(flashmla_pool_free(p.pool, others[i]));
  CHECK_OK(flashmla_pool_swap_in(p.pool, swapped, NULL));
  unsigned char *again = saved(&p, &again_bytes);
  pools_make(&q);
  CHECK_OK(flashmla_pool_load(q.pool, again, again_bytes));
  pools_free(&p);
  pools_free(&q);
  free(state);
  free(again);
}

/* As many holds as a state may have leave room for sequences. */
static void many_holds(void) {
  pools p;
  uint64_t bytes;
  flashmla_sequence child;
  pools_make(&p);
  const flashmla_sequence one = add(&p, 2);
  int32_t block;
  CHECK_OK(flashmla_pool_get_blocks(p.pool, one, &block, 1));
  unsigned char *state = saved(&p, &bytes);
  flashmla_pool_destroy(p.pool);
  for (int32_t holds = INT32_MAX, loaded = 0; !loaded; holds = holds == INT32_MAX ? INT32_MAX - 1 : FM_MOST_HOLDS) {
    memcpy(state + sizeof(fm_state_header) + (size_t)block * sizeof(fm_saved_block), &holds, sizeof holds);
    seal(state, bytes);
    pools_make(&p);
    loaded = loads(&p, state, bytes);
    CHECK(loaded == (holds == FM_MOST_HOLDS));
    if (loaded) {
      CHECK_STATUS(flashmla_pool_hold(p.pool, block), FLASHMLA_ERROR_OVERFLOW, "has 2^30 holds");
      CHECK_OK(flashmla_pool_fork(p.pool, one, &child));
      CHECK(usage_of(&p).shared_blocks == 1);
    }
    pools_free(&p);
  }
  free(state);
}

int main(void) {
  pools p;
  uint64_t bytes;
  unsigned char *state = rich_state(&p, &bytes), *changed = malloc(bytes);
  flashmla_pool *first = p.pool;
  int loaded = 0;
  CHECK_STATUS(flashmla_pool_load(first, state, bytes), FLASHMLA_ERROR_VALUE, "a state is loaded into one without");
  for (uint64_t i = 0; i < bytes; ++i) {
    pools_make(&p);
    CHECK(!loads(&p, state, i)); /* torn off */
    memcpy(changed, state, bytes);
    changed[i] ^= 1u << draw(8);
    CHECK(!loads(&p, changed, bytes)); /* a bit has changed */
    CHECK(loads(&p, state, bytes));
    pools_free(&p);
  }
  for (int trial = 0; trial < TRIALS; ++trial) {
    memcpy(changed, state, bytes);
    const uint32_t edits = 1 + draw(3);
    for (uint32_t i = 0; i < edits; ++i) {
      const uint32_t word = hostile_word();
      memcpy(changed + FM_SUMMED_FROM + 4 * draw((uint32_t)(bytes - FM_SUMMED_FROM) / 4), &word, sizeof word);
    }
    seal(changed, bytes);
    pools_make(&p);
    if (loads(&p, changed, bytes) && few_holds(changed)) {
      ++loaded;
      use(&p, changed);
    }
    pools_free(&p);
  }
  printf("%d of %d hostile states were consistent\n", loaded, TRIALS);
  CHECK(loaded > TRIALS / 100);
  many_holds();
  one_hash_of_two_host_blocks();
  free(state);
  free(changed);
  flashmla_pool_destroy(first);
  return 0;
}
