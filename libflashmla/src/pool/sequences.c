/* sequences.c - records of sequences, rows of the block table, host blocks. */
#include "pool/books.h"

/* A name: 7 bits that tell pools apart, the generation, and the record. */
enum { RECORD_BITS = 24, GENERATION_BITS = 32, TAG_SHIFT = RECORD_BITS + GENERATION_BITS };

flashmla_sequence fm_name_of(const fm_books *books, const fm_sequence *sequence) {
  const uint64_t record = (uint64_t)(sequence - books->sequences);
  return books->tag << TAG_SHIFT | (uint64_t)sequence->generation << RECORD_BITS | record;
}

flashmla_status fm_find_sequence(fm_books *books, flashmla_sequence name, fm_sequence **sequence) {
  const uint64_t record = name & ((UINT64_C(1) << RECORD_BITS) - 1), tag = name >> TAG_SHIFT;
  const uint32_t generation = (uint32_t)(name >> RECORD_BITS);
  if (tag != books->tag && tag != 0)
    return fm_fail(FLASHMLA_ERROR_SEQUENCE, "sequence %llu is not of this pool", (unsigned long long)name);
  fm_sequence *found = record < (uint64_t)books->sizes.max_sequences ? &books->sequences[record] : NULL;
  if (tag == 0 || found == NULL || generation == 0 || generation > found->generation)
    return fm_fail(FLASHMLA_ERROR_SEQUENCE, "sequence %llu is unknown: the pool has made none of that name",
                   (unsigned long long)name);
  if (generation < found->generation || found->state == FM_NOWHERE)
    return fm_fail(FLASHMLA_ERROR_SEQUENCE, "sequence %llu was freed before", (unsigned long long)name);
  *sequence = found;
  return FLASHMLA_OK;
}

flashmla_status fm_find_resident(fm_books *books, flashmla_sequence name, fm_sequence **sequence) {
  FM_TRY(fm_find_sequence(books, name, sequence));
  if ((*sequence)->state != FM_SWAPPED) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_SEQUENCE, "sequence %llu is swapped out; swap it in before", (unsigned long long)name);
}

flashmla_status fm_check_row(const fm_books *books) {
  if (books->num_free_rows > 0) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_TABLE_FULL, "all %d rows of block_table are taken; free a sequence or swap one out",
                 books->sizes.rows);
}

flashmla_status fm_check_room(const fm_books *books) {
  FM_TRY(fm_check_row(books));
  if (books->num_sequences < books->sizes.max_sequences) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_TABLE_FULL, "there are %d sequences, as many as max_sequences; free one",
                 books->num_sequences);
}

void fm_take_row(fm_books *books, fm_sequence *sequence) {
  sequence->row = books->free_row;
  books->free_row = books->next_row[sequence->row];
  --books->num_free_rows;
}

void fm_give_row(fm_books *books, fm_sequence *sequence) {
  books->next_row[sequence->row] = books->free_row;
  books->free_row = sequence->row;
  ++books->num_free_rows;
  sequence->row = FM_NONE;
}

fm_sequence *fm_add_sequence(fm_books *books) {
  fm_sequence *sequence = &books->sequences[books->free_record];
  const uint32_t generation = sequence->generation + 1;
  books->free_record = sequence->next;
  ++books->num_sequences;
  *sequence = (fm_sequence){.generation = generation == 0 ? 1 : generation, /* after 2^32 uses */
                            .state = FM_RESIDENT,
                            .host_first = FM_NONE,
                            .next = FM_NONE};
  fm_take_row(books, sequence);
  return sequence;
}

void fm_remove_record(fm_books *books, fm_sequence *sequence) {
  sequence->state = FM_NOWHERE;
  sequence->next = books->free_record;
  books->free_record = (int32_t)(sequence - books->sequences);
  --books->num_sequences;
}

int32_t fm_take_host_blocks(fm_books *books, int32_t count) {
  const int32_t first = books->free_host;
  int32_t last = FM_NONE;
  for (int32_t i = 0; i < count; ++i) {
    last = books->free_host;
    books->free_host = books->host_next[last];
  }
  books->num_free_host -= count;
  if (last == FM_NONE) return FM_NONE;
  books->host_next[last] = FM_NONE;
  return first;
}

void fm_give_host_blocks(fm_books *books, int32_t first, int32_t count) {
  int32_t last = first;
  if (count == 0) return;
  for (int32_t i = 1; i < count; ++i) last = books->host_next[last];
  books->host_next[last] = books->free_host;
  books->free_host = first;
  books->num_free_host += count;
}

void fm_drop_blocks(fm_books *books, fm_sequence *sequence, int32_t first, int32_t end) {
  const int32_t *row = fm_row_of(books, sequence);
  for (int32_t i = end; i-- > first;) fm_unrefer(books, row[i]);
}
