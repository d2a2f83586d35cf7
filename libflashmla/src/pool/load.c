/* load.c - bytes into books. Whatever the bytes are, every number is looked at before it is an index, every block, row,
 * record and host block is accounted for once, and the books that there were stay until new ones are whole. */
#include <string.h>

#include "pool/pool.h"
#include "pool/state.h"

typedef struct fm_reader {
  const unsigned char *buffer;
  uint64_t at, end;
} fm_reader;

enum { UNCLAIMED = -2 /* in the place of the next: it is in no list, and of no sequence */ };

static flashmla_status torn(const char *what) {
  return fm_fail(FLASHMLA_ERROR_STATE, "the state contradicts itself: %s", what);
}

static flashmla_status get(fm_reader *reader, void *to, uint64_t bytes) {
  if (bytes > reader->end - reader->at) return torn("it ends too early");
  memcpy(to, reader->buffer + reader->at, bytes);
  reader->at += bytes;
  return FLASHMLA_OK;
}

static flashmla_status get_index(fm_reader *reader, int32_t limit, const char *what, int32_t *index) {
  FM_TRY(get(reader, index, sizeof *index));
  return *index >= 0 && *index < limit ? FLASHMLA_OK : torn(what);
}

static flashmla_status check_size(const char *name, int64_t found, int64_t own) {
  if (found == own) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_STATE, "the state is of a pool whose %s is %lld; that of this one is %lld", name,
                 (long long)found, (long long)own);
}

static flashmla_status check_sizes(const fm_pool_sizes *found, const fm_pool_sizes *own) {
  FM_TRY(check_size("num_blocks", found->num_blocks, own->num_blocks));
  FM_TRY(check_size("page_size", found->page_size, own->page_size));
  FM_TRY(check_size("max_seqs", found->rows, own->rows));
  FM_TRY(check_size("max_blocks", found->max_blocks, own->max_blocks));
  FM_TRY(check_size("max_slots", found->slots, own->slots));
  FM_TRY(check_size("num_host_blocks", found->host_blocks, own->host_blocks));
  FM_TRY(check_size("max_sequences", found->max_sequences, own->max_sequences));
  FM_TRY(check_size("num_layers", found->layers, own->layers));
  return check_size("block_bytes", found->block_bytes, own->block_bytes);
}

static flashmla_status read_header(const void *buffer, uint64_t bytes, const fm_books *own, fm_state_header *header) {
  if (bytes < sizeof *header || memcmp(buffer, FM_STATE_MAGIC, sizeof header->magic) != 0)
    return fm_fail(FLASHMLA_ERROR_STATE, "the %llu bytes are no state of a pool", (unsigned long long)bytes);
  memcpy(header, buffer, sizeof *header);
  if (header->version != FM_STATE_VERSION || header->header_bytes != sizeof *header)
    return fm_fail(FLASHMLA_ERROR_STATE, "the state is of version %u; this library reads version %d", header->version,
                   FM_STATE_VERSION);
  if (header->bytes != bytes || bytes % sizeof(uint64_t) != 0)
    return fm_fail(FLASHMLA_ERROR_STATE, "the state is torn: it has %llu bytes of %llu", (unsigned long long)bytes,
                   (unsigned long long)header->bytes);
  const unsigned char *summed = (const unsigned char *)buffer + FM_SUMMED_FROM;
  if (!fm_hash_equal(fm_state_sum(summed, bytes - FM_SUMMED_FROM), header->sum))
    return fm_fail(FLASHMLA_ERROR_STATE, "the state is torn: its checksum is not that of its bytes");
  FM_TRY(check_sizes(&header->sizes, &own->sizes));
  if (memcmp(header->key, own->key, sizeof header->key) != 0)
    return fm_fail(FLASHMLA_ERROR_STATE, "the state is of a pool with another hash_key");
  if (header->tag == 0 || header->tag >> 7 != 0) return torn("the tag of names");
  return FLASHMLA_OK;
}

static flashmla_status get_blocks(fm_reader *reader, fm_books *books) {
  for (int32_t i = 0; i < books->sizes.num_blocks; ++i) {
    fm_saved_block saved = {0};
    fm_block *block = &books->blocks[i];
    FM_TRY(get(reader, &saved, sizeof saved));
    if (saved.holds < 0 || saved.holds > FM_MOST_HOLDS || saved.published < 0 || saved.published > 1)
      return torn("a block");
    block->references = block->holds = saved.holds;
    block->hash = saved.hash;
    if (!saved.published) continue;
    if (fm_find_published(books, saved.hash) != FM_NONE) return torn("two blocks are published under one hash");
    fm_publish(books, i, saved.hash);
  }
  return FLASHMLA_OK;
}

static flashmla_status get_record(fm_reader *reader, const fm_books *books, fm_sequence *sequence) {
  const fm_pool_sizes *sizes = &books->sizes;
  fm_saved_sequence saved = {0};
  FM_TRY(get(reader, &saved, sizeof saved));
  *sequence = (fm_sequence){
      .generation = saved.generation, .state = FM_NOWHERE, .row = FM_NONE, .host_first = FM_NONE, .next = UNCLAIMED};
  if (saved.state == FM_NOWHERE) return FLASHMLA_OK;
  if (saved.state != FM_RESIDENT && saved.state != FM_SWAPPED) return torn("the state of a sequence");
  const int64_t most = (int64_t)sizes->max_blocks * sizes->page_size;
  const bool fits = saved.length >= 0 && saved.length <= most;
  const int32_t full = fits ? saved.length / sizes->page_size : 0;
  if (!fits || saved.generation == 0 || saved.head < 0 || saved.head > full || saved.committed_blocks < 0 ||
      saved.committed_blocks > full)
    return torn("the length of a sequence");
  if (saved.state == FM_RESIDENT && (saved.row < 0 || saved.row >= sizes->rows)) return torn("the row of a sequence");
  sequence->state = (fm_sequence_state)saved.state;
  sequence->row = saved.state == FM_RESIDENT ? saved.row : FM_NONE;
  sequence->length = saved.length;
  sequence->head = saved.head;
  sequence->committed_blocks = saved.committed_blocks;
  sequence->chain = saved.chain;
  sequence->head_chain = saved.head_chain;
  return FLASHMLA_OK;
}

/* A number that was in no list and of no sequence; from now on it is. */
static flashmla_status claim(int32_t *next, int32_t index, const char *what) {
  if (next[index] != UNCLAIMED) return torn(what);
  next[index] = FM_NONE;
  return FLASHMLA_OK;
}

/* A list of `count` numbers below `limit`, linked in `next`. */
static flashmla_status get_list(fm_reader *reader, int32_t count, int32_t limit, const char *what, int32_t *next,
                                int32_t *first) {
  int32_t last = FM_NONE;
  *first = FM_NONE;
  for (int32_t i = 0; i < limit; ++i) next[i] = UNCLAIMED;
  if (count < 0 || count > limit) return torn(what);
  for (int32_t i = 0; i < count; ++i) {
    int32_t index = FM_NONE;
    FM_TRY(get_index(reader, limit, what, &index));
    FM_TRY(claim(next, index, what));
    *(last != FM_NONE ? &next[last] : first) = index;
    last = index;
  }
  return FLASHMLA_OK;
}

static flashmla_status get_block_list(fm_reader *reader, int32_t count, bool cached, fm_books *books) {
  static const char what[] = "the free and cached blocks";
  if (count < 0 || count > books->sizes.num_blocks) return torn(what);
  for (int32_t i = 0; i < count; ++i) {
    int32_t index = FM_NONE;
    FM_TRY(get_index(reader, books->sizes.num_blocks, what, &index));
    fm_block *block = &books->blocks[index];
    if (block->appenders != 0 || (block->published != 0) != cached) return torn(what);
    block->appenders = 1; /* it is in a list */
    if (cached)
      fm_cache_block(books, index);
    else
      fm_push_free(books, index, true);
  }
  return FLASHMLA_OK;
}

static flashmla_status get_record_list(fm_reader *reader, int32_t count, fm_books *books) {
  static const char what[] = "the free records";
  const int32_t limit = books->sizes.max_sequences;
  int32_t last = FM_NONE;
  books->free_record = FM_NONE;
  if (count != limit - books->num_sequences) return torn(what);
  for (int32_t i = 0; i < count; ++i) {
    int32_t index = FM_NONE;
    FM_TRY(get_index(reader, limit, what, &index));
    if (books->sequences[index].state != FM_NOWHERE || books->sequences[index].next != UNCLAIMED) return torn(what);
    books->sequences[index].next = FM_NONE;
    *(last != FM_NONE ? &books->sequences[last].next : &books->free_record) = index;
    last = index;
  }
  return FLASHMLA_OK;
}

static flashmla_status get_lists(fm_reader *reader, const fm_state_header *header, fm_books *books) {
  const fm_pool_sizes *sizes = &books->sizes;
  books->free = (fm_list){0, 0, 0}; /* of all blocks, as they were made */
  FM_TRY(get_block_list(reader, header->free_blocks, false, books));
  FM_TRY(get_block_list(reader, header->cached_blocks, true, books));
  FM_TRY(get_record_list(reader, header->free_records, books));
  FM_TRY(get_list(reader, header->free_rows, sizes->rows, "the free rows", books->next_row, &books->free_row));
  FM_TRY(get_list(reader, header->free_host_blocks, sizes->host_blocks, "the free host blocks", books->host_next,
                  &books->free_host));
  books->num_free_rows = header->free_rows;
  books->num_free_host = header->free_host_blocks;
  return FLASHMLA_OK;
}

static flashmla_status get_resident(fm_reader *reader, fm_books *books, const fm_sequence *sequence) {
  int32_t *row = fm_row_of(books, sequence);
  FM_TRY(claim(books->next_row, sequence->row, "a row has two sequences"));
  for (int32_t i = sequence->head; i < fm_blocks_of(books, sequence->length); ++i) {
    FM_TRY(get_index(reader, books->sizes.num_blocks, "a block of a sequence", &row[i]));
    fm_block *block = &books->blocks[row[i]];
    if (block->references == INT32_MAX) return torn("the holds of a block");
    ++block->references;
  }
  return FLASHMLA_OK;
}

static flashmla_status get_swapped(fm_reader *reader, fm_books *books, fm_sequence *sequence) {
  const int32_t end = fm_blocks_of(books, sequence->length);
  int32_t last = FM_NONE;
  for (int32_t i = sequence->head; i < end; ++i) {
    int32_t host = FM_NONE;
    FM_TRY(get_index(reader, books->sizes.host_blocks, "a host block", &host));
    FM_TRY(claim(books->host_next, host, "a host block has two sequences"));
    *(last != FM_NONE ? &books->host_next[last] : &sequence->host_first) = host;
    last = host;
  }
  int32_t host = sequence->host_first;
  for (int32_t i = sequence->head; i < end; ++i, host = books->host_next[host])
    FM_TRY(get(reader, &books->host_hashes[host], sizeof books->host_hashes[host]));
  return FLASHMLA_OK;
}

/* What is neither free nor cached is used, of blocks as of rows and host blocks. */
static flashmla_status check_whole(fm_books *books) {
  for (int32_t i = 0; i < books->sizes.num_blocks; ++i) {
    fm_block *block = &books->blocks[i];
    if ((block->references == 0) != (block->appenders == 1)) return torn("a block is lost, or used and free");
    block->appenders = 0;
    books->shared += block->references > 1 ? 1 : 0;
  }
  for (int32_t i = 0; i < books->sizes.rows; ++i)
    if (books->next_row[i] == UNCLAIMED) return torn("a row is lost");
  for (int32_t i = 0; i < books->sizes.host_blocks; ++i)
    if (books->host_next[i] == UNCLAIMED) return torn("a host block is lost");
  return FLASHMLA_OK;
}

static flashmla_status read_books(fm_reader *reader, const fm_state_header *header, fm_books *books) {
  FM_TRY(get_blocks(reader, books));
  for (int32_t i = 0; i < books->sizes.max_sequences; ++i) {
    fm_sequence *sequence = &books->sequences[i];
    FM_TRY(get_record(reader, books, sequence));
    books->num_sequences += sequence->state != FM_NOWHERE ? 1 : 0;
    books->num_swapped += sequence->state == FM_SWAPPED ? 1 : 0;
  }
  FM_TRY(get_lists(reader, header, books));
  for (int32_t i = 0; i < books->sizes.max_sequences; ++i) {
    fm_sequence *sequence = &books->sequences[i];
    if (sequence->state == FM_RESIDENT) FM_TRY(get_resident(reader, books, sequence));
    if (sequence->state == FM_SWAPPED) FM_TRY(get_swapped(reader, books, sequence));
  }
  return check_whole(books);
}

/* Every row of a sequence is shown anew, and the others have no length. */
static void show_all(flashmla_pool *pool) {
  const fm_books *books = &pool->books;
  for (int32_t row = 0; row < books->sizes.rows; ++row) fm_show_length(pool, row, 0);
  for (int32_t i = 0; i < books->sizes.max_sequences; ++i) {
    const fm_sequence *sequence = &books->sequences[i];
    if (sequence->state == FM_RESIDENT) fm_show_sequence(pool, sequence, 0, fm_blocks_of(books, sequence->length));
  }
}

static flashmla_status check_unused(const fm_books *books) {
  const int32_t used = books->sizes.num_blocks - books->free.count - books->cached.count;
  if (books->num_sequences == 0 && used == 0) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_VALUE,
                 "the pool has %d sequences and %d used blocks; a state is loaded into one without",
                 books->num_sequences, used);
}

static flashmla_status load(flashmla_pool *pool, const void *buffer, uint64_t bytes) {
  fm_state_header header;
  fm_books made;
  FM_TRY(fm_check_result(buffer, "buffer"));
  FM_TRY(check_unused(&pool->books));
  FM_TRY(read_header(buffer, bytes, &pool->books, &header));
  FM_TRY(fm_books_make(&pool->books.sizes, pool->books.key, header.tag, &made));
  fm_reader reader = {buffer, sizeof header, bytes};
  flashmla_status status = read_books(&reader, &header, &made);
  if (status == FLASHMLA_OK && bytes - reader.at >= sizeof(uint64_t)) status = torn("it goes on too long");
  if (status != FLASHMLA_OK) {
    fm_books_free(&made);
    return status;
  }
  fm_books_free(&pool->books);
  made.must_wait = pool->swaps; /* of whatever was before */
  pool->books = made;
  show_all(pool);
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_load(flashmla_pool *pool, const void *buffer, uint64_t bytes) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, load(pool, buffer, bytes));
}
