/* blocks.c - blocks: free, cached or referred to, and the index of those that are published. */
#include "pool/books.h"

void fm_push_free(fm_books *books, int32_t block, bool last) {
  fm_list *list = &books->free;
  if (list->count == 0) {
    books->blocks[block].next = FM_NONE;
    list->first = list->last = block;
  } else if (last) {
    books->blocks[block].next = FM_NONE;
    books->blocks[list->last].next = block;
    list->last = block;
  } else {
    books->blocks[block].next = list->first;
    list->first = block;
  }
  ++list->count;
}

static int32_t pop_free(fm_books *books) {
  const int32_t block = books->free.first;
  books->free.first = books->blocks[block].next;
  --books->free.count;
  return block;
}

void fm_cache_block(fm_books *books, int32_t block) {
  fm_list *list = &books->cached;
  books->blocks[block].next = FM_NONE;
  books->blocks[block].previous = list->count > 0 ? list->last : FM_NONE;
  if (list->count > 0)
    books->blocks[list->last].next = block;
  else
    list->first = block;
  list->last = block;
  ++list->count;
}

static void uncache_block(fm_books *books, int32_t block) {
  fm_list *list = &books->cached;
  const fm_block *at = &books->blocks[block];
  if (at->previous != FM_NONE)
    books->blocks[at->previous].next = at->next;
  else
    list->first = at->next;
  if (at->next != FM_NONE)
    books->blocks[at->next].previous = at->previous;
  else
    list->last = at->previous;
  --list->count;
}

int32_t fm_take_block(fm_books *books) {
  int32_t block;
  if (books->free.count > 0) {
    block = pop_free(books);
  } else {
    block = books->cached.first;
    uncache_block(books, block);
    fm_unpublish(books, block);
  }
  fm_block *at = &books->blocks[block];
  fm_wait_for(books, at->busy);
  at->busy = 0;
  at->references = 1;
  return block;
}

void fm_refer(fm_books *books, int32_t block) {
  fm_block *at = &books->blocks[block];
  if (at->references == 0) uncache_block(books, block); /* a free one is only taken */
  if (++at->references == 2) ++books->shared;
}

void fm_unrefer(fm_books *books, int32_t block) {
  fm_block *at = &books->blocks[block];
  if (at->references == 2) --books->shared;
  if (--at->references > 0) return;
  if (at->published)
    fm_cache_block(books, block);
  else
    fm_push_free(books, block, at->busy != 0);
}

static int32_t *bucket_of(const fm_books *books, fm_hash hash) { return &books->buckets[hash.word[0] & books->mask]; }

int32_t fm_find_published(const fm_books *books, fm_hash hash) {
  int32_t block = *bucket_of(books, hash);
  while (block != FM_NONE && !fm_hash_equal(books->blocks[block].hash, hash)) block = books->blocks[block].chained;
  return block;
}

void fm_publish(fm_books *books, int32_t block, fm_hash hash) {
  fm_block *at = &books->blocks[block];
  int32_t *bucket = bucket_of(books, hash);
  at->hash = hash;
  at->published = 1;
  at->chained = *bucket;
  *bucket = block;
}

void fm_unpublish(fm_books *books, int32_t block) {
  fm_block *at = &books->blocks[block];
  int32_t *link = bucket_of(books, at->hash);
  while (*link != block) link = &books->blocks[*link].chained;
  *link = at->chained;
  at->published = 0;
}
