/* save.c - the books into bytes. */
#include <string.h>

#include "pool/pool.h"
#include "pool/state.h"

/* Where the next bytes go; NULL: they are only counted. */
typedef struct fm_writer {
  unsigned char *buffer;
  uint64_t bytes;
} fm_writer;

static void put(fm_writer *writer, const void *from, size_t bytes) {
  if (writer->buffer != NULL) memcpy(writer->buffer + writer->bytes, from, bytes);
  writer->bytes += bytes;
}

static void put_number(fm_writer *writer, int32_t number) { put(writer, &number, sizeof number); }

static void put_blocks(fm_writer *writer, const fm_books *books) {
  for (int32_t i = 0; i < books->sizes.num_blocks; ++i) {
    const fm_block *block = &books->blocks[i];
    const fm_saved_block saved = {block->holds, block->published, block->hash};
    put(writer, &saved, sizeof saved);
  }
}

static void put_records(fm_writer *writer, const fm_books *books) {
  for (int32_t i = 0; i < books->sizes.max_sequences; ++i) {
    const fm_sequence *of = &books->sequences[i];
    fm_saved_sequence saved = {.generation = of->generation, .state = FM_NOWHERE};
    if (of->state != FM_NOWHERE)
      saved = (fm_saved_sequence){of->generation, of->state == FM_SWAPPED ? FM_SWAPPED : FM_RESIDENT,
                                  of->row,        of->length,
                                  of->head,       of->committed_blocks,
                                  of->chain,      of->head_chain};
    put(writer, &saved, sizeof saved);
  }
}

static int32_t put_free(fm_writer *writer, const fm_books *books) {
  int32_t records = 0;
  for (int32_t i = 0, block = books->free.first; i < books->free.count; ++i, block = books->blocks[block].next)
    put_number(writer, block);
  for (int32_t i = 0, block = books->cached.first; i < books->cached.count; ++i, block = books->blocks[block].next)
    put_number(writer, block);
  for (int32_t record = books->free_record; record != FM_NONE; record = books->sequences[record].next, ++records)
    put_number(writer, record);
  for (int32_t i = 0, row = books->free_row; i < books->num_free_rows; ++i, row = books->next_row[row])
    put_number(writer, row);
  for (int32_t i = 0, host = books->free_host; i < books->num_free_host; ++i, host = books->host_next[host])
    put_number(writer, host);
  return records;
}

static void put_sequence(fm_writer *writer, const fm_books *books, const fm_sequence *sequence) {
  const int32_t end = fm_blocks_of(books, sequence->length);
  int32_t host = sequence->host_first;
  if (sequence->state != FM_SWAPPED) {
    put(writer, fm_row_of(books, sequence) + sequence->head, (size_t)(end - sequence->head) * sizeof(int32_t));
    return;
  }
  for (int32_t i = sequence->head; i < end; ++i, host = books->host_next[host]) put_number(writer, host);
  host = sequence->host_first;
  for (int32_t i = sequence->head; i < end; ++i, host = books->host_next[host])
    put(writer, &books->host_hashes[host], sizeof books->host_hashes[host]);
}

static uint64_t write_state(const fm_books *books, unsigned char *buffer) {
  fm_writer writer = {buffer, sizeof(fm_state_header)};
  fm_state_header header = {.magic = FM_STATE_MAGIC,
                            .version = FM_STATE_VERSION,
                            .header_bytes = sizeof header,
                            .sizes = books->sizes,
                            .key = {books->key[0], books->key[1]},
                            .tag = books->tag,
                            .free_blocks = books->free.count,
                            .cached_blocks = books->cached.count,
                            .free_rows = books->num_free_rows,
                            .free_host_blocks = books->num_free_host};
  put_blocks(&writer, books);
  put_records(&writer, books);
  header.free_records = put_free(&writer, books);
  for (int32_t i = 0; i < books->sizes.max_sequences; ++i)
    if (books->sequences[i].state != FM_NOWHERE) put_sequence(&writer, books, &books->sequences[i]);
  while (writer.bytes % sizeof(uint64_t) != 0) put(&writer, "", 1);
  header.bytes = writer.bytes;
  if (buffer == NULL) return writer.bytes;
  memcpy(buffer, &header, sizeof header);
  header.sum = fm_state_sum(buffer + FM_SUMMED_FROM, header.bytes - FM_SUMMED_FROM);
  memcpy(buffer, &header, sizeof header);
  return writer.bytes;
}

flashmla_status flashmla_pool_save_size(flashmla_pool *pool, uint64_t *bytes) {
  FM_TRY(fm_enter_pool(pool));
  const flashmla_status status = fm_check_result(bytes, "bytes");
  if (status == FLASHMLA_OK) *bytes = write_state(&pool->books, NULL);
  return fm_leave_pool(pool, status);
}

static flashmla_status save(const fm_books *books, void *buffer, uint64_t bytes) {
  FM_TRY(fm_check_result(buffer, "buffer"));
  const uint64_t needed = write_state(books, NULL);
  if (bytes != needed)
    return fm_fail(FLASHMLA_ERROR_WORKSPACE_TOO_SMALL, "bytes is %llu; flashmla_pool_save_size says %llu",
                   (unsigned long long)bytes, (unsigned long long)needed);
  write_state(books, buffer);
  return FLASHMLA_OK;
}

flashmla_status flashmla_pool_save(flashmla_pool *pool, void *buffer, uint64_t bytes) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, save(&pool->books, buffer, bytes));
}
