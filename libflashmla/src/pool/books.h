/* books.h - what a pool knows: of every block who has it, of every sequence which blocks it has. Lists run through the
 * arrays, so that nothing is allocated once the books are made, and every step takes the same time however many blocks
 * there are. Nothing here touches a tensor. */
#ifndef FLASHMLA_POOL_BOOKS_H_
#define FLASHMLA_POOL_BOOKS_H_

#include "core/error.h"
#include "pool/hash.h"

enum {
  FM_NONE = -1,           /* in the place of a number of a block, a row, a sequence */
  FM_MOST_HOLDS = 1 << 30 /* of a block; sequences are far fewer, so that its references fit 31 bits */
};

/* How large a pool is. What is saved fits pools of the same sizes. */
typedef struct fm_pool_sizes {
  int32_t num_blocks, page_size;
  int32_t rows, max_blocks; /* of the block table */
  int32_t slots;            /* tokens of one append */
  int32_t host_blocks, max_sequences;
  int32_t layers;
  int64_t block_bytes; /* of all layers */
} fm_pool_sizes;

typedef struct fm_block {
  int32_t references;     /* sequences that have it, and holds; 0: it is free or cached */
  int32_t holds;          /* of those */
  int32_t next, previous; /* in the list of free blocks (next alone) or of cached ones */
  int32_t chained;        /* the next published block in its bucket */
  int32_t published;      /* it is in the index, under `hash` */
  int32_t appenders;      /* within an append: sequences so far that would write into it */
  uint64_t busy;          /* the last swap that reads or writes it */
  fm_hash hash;           /* of the tokens up to its end, once it was committed */
} fm_block;

typedef struct fm_list {
  int32_t first, last, count;
} fm_list;

typedef enum fm_sequence_state {
  FM_NOWHERE, /* the record is free */
  FM_RESIDENT,
  FM_ARRIVING, /* resident, and what swaps it in was not waited for */
  FM_SWAPPED
} fm_sequence_state;

/* Blocks are numbered from the beginning of the sequence, those of the head that was given up too. A resident sequence
 * has its blocks in its row of the table, one that is swapped out in a list of host blocks. */
typedef struct fm_sequence {
  uint32_t generation; /* of the record's use, from 1 */
  fm_sequence_state state;
  int32_t row;
  int32_t length; /* tokens */
  int32_t head;   /* blocks given up */
  int32_t committed_blocks;
  int32_t host_first;
  int32_t next;       /* free record */
  uint64_t arrival;   /* the swap that brought it */
  uint64_t met;       /* the last call with a list of sequences in which it was */
  fm_hash chain;      /* of block committed_blocks - 1 */
  fm_hash head_chain; /* of block head - 1, where head <= committed_blocks */
} fm_sequence;

typedef struct fm_books {
  fm_pool_sizes sizes;
  uint64_t tag; /* in the names of its sequences */
  uint64_t key[2];
  fm_block *blocks;
  fm_list free, cached; /* cached: the one to be handed out first is first */
  int32_t shared;       /* blocks with more than one reference */
  int32_t *buckets;     /* of the index: a published block each */
  uint32_t mask;        /* buckets - 1 */
  fm_sequence *sequences;
  int32_t free_record, num_sequences, num_swapped;
  int32_t *table; /* rows of block numbers */
  int32_t *next_row;
  int32_t free_row, num_free_rows;
  int32_t *host_next; /* in the list of free host blocks, or of a sequence */
  int32_t free_host, num_free_host;
  fm_hash *host_hashes; /* of host blocks that hold committed blocks: fm_block.hash */
  uint64_t calls;       /* with a list of sequences */
  uint64_t must_wait;   /* the swap that has to be done before blocks are used next */
} fm_books;

/* Allocates books of these sizes, in which nothing is used. */
flashmla_status fm_books_make(const fm_pool_sizes *sizes, const uint64_t key[2], uint64_t tag, fm_books *books);
void fm_books_free(fm_books *books);

static inline int32_t fm_blocks_of(const fm_books *books, int64_t tokens) {
  return (int32_t)((tokens + books->sizes.page_size - 1) / books->sizes.page_size);
}
static inline int32_t *fm_row_of(const fm_books *books, const fm_sequence *sequence) {
  return books->table + (int64_t)sequence->row * books->sizes.max_blocks;
}
static inline int64_t fm_available(const fm_books *books) { return (int64_t)books->free.count + books->cached.count; }

/* What swaps do with a block has to be done before it is used otherwise. */
static inline void fm_wait_for(fm_books *books, uint64_t swap) {
  if (swap > books->must_wait) books->must_wait = swap;
}

/* blocks.c: a block changes hands. */
/* One that was free, or else the cached one that was left longest ago; the caller knows that there is one. */
int32_t fm_take_block(fm_books *books);
void fm_refer(fm_books *books, int32_t block);
/* The block is free or cached with the last reference; one that a swap reads is handed out after all others. */
void fm_unrefer(fm_books *books, int32_t block);
/* The published block with this hash, or FM_NONE. */
int32_t fm_find_published(const fm_books *books, fm_hash hash);
void fm_publish(fm_books *books, int32_t block, fm_hash hash);
void fm_unpublish(fm_books *books, int32_t block);
/* Of a block in the list of cached blocks: puts it at the end that is handed out last. */
void fm_cache_block(fm_books *books, int32_t block);
void fm_push_free(fm_books *books, int32_t block, bool last);

/* sequences.c: records, rows and host blocks. */
flashmla_sequence fm_name_of(const fm_books *books, const fm_sequence *sequence);
/* The sequence of a name, in one of two states. */
flashmla_status fm_find_sequence(fm_books *books, flashmla_sequence name, fm_sequence **sequence);
flashmla_status fm_find_resident(fm_books *books, flashmla_sequence name, fm_sequence **sequence);
/* There is a record and a row for one more. */
flashmla_status fm_check_room(const fm_books *books);
flashmla_status fm_check_row(const fm_books *books);
/* A new resident sequence without tokens, when there is room. */
fm_sequence *fm_add_sequence(fm_books *books);
void fm_take_row(fm_books *books, fm_sequence *sequence);
void fm_give_row(fm_books *books, fm_sequence *sequence);
void fm_remove_record(fm_books *books, fm_sequence *sequence);
/* The host blocks that were taken, linked in order; the caller knows that there are so many. */
int32_t fm_take_host_blocks(fm_books *books, int32_t count);
void fm_give_host_blocks(fm_books *books, int32_t first, int32_t count);
/* Gives up the blocks [first, end) of a resident sequence, the last one first. */
void fm_drop_blocks(fm_books *books, fm_sequence *sequence, int32_t first, int32_t end);

#endif /* FLASHMLA_POOL_BOOKS_H_ */
