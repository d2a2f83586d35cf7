/* books.c - the memory of the books, and books in which nothing is used. */
#include <stdlib.h>

#include "pool/books.h"

static bool allocate(fm_books *books) {
  const fm_pool_sizes *sizes = &books->sizes;
  const size_t buckets = (size_t)books->mask + 1, entries = (size_t)sizes->rows * (size_t)sizes->max_blocks;
  books->blocks = calloc((size_t)sizes->num_blocks, sizeof *books->blocks);
  books->buckets = malloc(buckets * sizeof *books->buckets);
  books->sequences = calloc((size_t)sizes->max_sequences, sizeof *books->sequences);
  books->table = malloc((entries + 1) * sizeof *books->table); /* malloc(0) may be NULL */
  books->next_row = malloc((size_t)sizes->rows * sizeof *books->next_row);
  books->host_next = malloc(((size_t)sizes->host_blocks + 1) * sizeof *books->host_next);
  books->host_hashes = calloc((size_t)sizes->host_blocks + 1, sizeof *books->host_hashes);
  return books->blocks != NULL && books->buckets != NULL && books->sequences != NULL && books->table != NULL &&
         books->next_row != NULL && books->host_next != NULL && books->host_hashes != NULL;
}

/* Links 0, 1, 2, ... behind one another. */
static int32_t link_all(int32_t *next, int32_t count) {
  for (int32_t i = 0; i < count; ++i) next[i] = i + 1 < count ? i + 1 : FM_NONE;
  return count > 0 ? 0 : FM_NONE;
}

flashmla_status fm_books_make(const fm_pool_sizes *sizes, const uint64_t key[2], uint64_t tag, fm_books *books) {
  *books = (fm_books){.sizes = *sizes, .tag = tag, .key = {key[0], key[1]}};
  while (books->mask + 1 < (uint32_t)sizes->num_blocks) books->mask = 2 * books->mask + 1;
  if (!allocate(books)) {
    fm_books_free(books);
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for the books of a pool could not be allocated");
  }
  for (uint32_t i = 0; i <= books->mask; ++i) books->buckets[i] = FM_NONE;
  for (int64_t i = 0; i < (int64_t)sizes->rows * sizes->max_blocks; ++i) books->table[i] = FM_NONE;
  for (int32_t i = 0; i < sizes->num_blocks; ++i) fm_push_free(books, i, true);
  for (int32_t i = 0; i < sizes->max_sequences; ++i)
    books->sequences[i].next = i + 1 < sizes->max_sequences ? i + 1 : FM_NONE;
  books->free_row = link_all(books->next_row, sizes->rows);
  books->num_free_rows = sizes->rows;
  books->free_host = link_all(books->host_next, sizes->host_blocks);
  books->num_free_host = sizes->host_blocks;
  return FLASHMLA_OK;
}

void fm_books_free(fm_books *books) {
  free(books->blocks);
  free(books->buckets);
  free(books->sequences);
  free(books->table);
  free(books->next_row);
  free(books->host_next);
  free(books->host_hashes);
  *books = (fm_books){0}; /* those that could not be made are freed with their pool, too */
}
