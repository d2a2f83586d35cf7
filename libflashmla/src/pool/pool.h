/* pool.h - a pool: its books, the tensors that show them, and who copies. */
#ifndef FLASHMLA_POOL_POOL_H_
#define FLASHMLA_POOL_POOL_H_

#include <pthread.h>
#include <stdbool.h>

#include "core/arith.h"
#include "pool/books.h"

/* Pages of one layer, or of several whose pages lie behind one another. */
typedef struct fm_segment {
  char *data;
  int64_t step;  /* bytes from block to block */
  int64_t bytes; /* of a block */
} fm_segment;

/* Where blocks lie. A row of host_pool has the segments of a block behind one another. */
typedef struct fm_pool_memory {
  bool cuda;
  int32_t device_id;
  fm_segment *segments;
  int32_t num_segments;
  char *host; /* NULL: there is no host_pool */
  char *staging;
  int64_t staging_bytes;
} fm_pool_memory;

/* The tensors that others read, what they should hold, and since when they do not: entries [first, end) of the rows in
 * a list, and of the lengths. The table itself is in the books. */
typedef struct fm_pool_arrays {
  int32_t *block_table;
  int64_t row_step; /* entries */
  int32_t *cache_seqlens;
  int64_t *slot_mapping;
  int32_t *lengths;
  int64_t *slots;
  int32_t *row_first, *row_end; /* first >= end: the row is not in the list */
  int32_t *dirty_rows, num_dirty;
  int32_t lengths_first, lengths_end;
  int32_t num_slots, shown_slots; /* that are not -1; in slot_mapping */
  bool slots_dirty;
  bool unsent; /* the end of an upload failed: the backend has parts of it still */
} fm_pool_arrays;

/* A block that is copied. */
typedef struct fm_block_copy {
  int32_t from, to;
} fm_block_copy;

/* Between which memory. Blocks of host_pool are its rows. */
typedef enum fm_route { FM_WITHIN_CACHES, FM_TO_HOST, FM_FROM_HOST } fm_route;

/* One that becomes another's entry of the table. */
typedef struct fm_replaced {
  fm_sequence *sequence;
  int32_t entry;
} fm_replaced;

/* Who copies: the CPU, at once, or a GPU, in the order of streams. Every function may fail; then it may be called
 * again.
 */
typedef struct fm_pool_backend {
  /* What copies need; fills the arrays on `stream`. `close` undoes what was done of it. */
  flashmla_status (*open)(flashmla_pool *pool, void *stream);
  void (*close)(flashmla_pool *pool);
  /* Fails where nothing may be enqueued on `stream`, before anything has changed. */
  flashmla_status (*check_stream)(flashmla_pool *pool, void *stream);
  flashmla_status (*copy_blocks)(flashmla_pool *pool, const fm_block_copy *copies, int32_t count, void *stream);
  /* To host_pool or from it; the number that it gets is one more than that of the last. */
  flashmla_status (*swap)(flashmla_pool *pool, const fm_block_copy *copies, int32_t count, fm_route route,
                          void *stream);
  /* Makes `stream` wait for a swap. */
  flashmla_status (*wait_for_swap)(flashmla_pool *pool, uint64_t swap, void *stream);
  /* Parts of arrays, between a begin and an end; where that fails, the next begin and end go on with them. */
  flashmla_status (*begin_upload)(flashmla_pool *pool, void *stream);
  flashmla_status (*upload)(flashmla_pool *pool, void *to, const void *from, int64_t bytes, void *stream);
  flashmla_status (*end_upload)(flashmla_pool *pool, void *stream);
} fm_pool_backend;
extern const fm_pool_backend fm_pool_cpu, fm_pool_cuda;

struct flashmla_pool {
  pthread_mutex_t lock;           /* of every call */
  flashmla_pool *next, *previous; /* of all pools, in any order */
  uint32_t flags;
  fm_books books;
  fm_pool_memory memory;
  fm_pool_arrays arrays;
  const fm_pool_backend *backend;
  void *backend_state;
  uint64_t swaps;        /* so far, their numbers being 1, 2, ... */
  uint64_t waited;       /* the last swap that the stream waits for */
  fm_block_copy *copies; /* of the call in progress: one a sequence, or one a block of a sequence */
  fm_replaced *replaced;
};

/* pieces.c: copies every piece of these blocks, in order, until one fails. */
typedef flashmla_status fm_copy_piece(const void *with, void *to, const void *from, int64_t bytes);
flashmla_status fm_copy_pieces(const flashmla_pool *pool, const fm_block_copy *copies, int32_t count, fm_route route,
                               fm_copy_piece *copy, const void *with);

enum {
  FM_STAGING_BUFFERS = 4, /* uploads under way at once */
  FM_STAGING_ALIGNMENT = 16,
  FM_STAGING_PIECE = 512 /* bytes that are uploaded as one, at most */
};
/* What a part of an array takes of a buffer: its bytes, and for each of its pieces a record of 16. */
static inline int64_t fm_staged_bytes(int64_t bytes) {
  return (fm_ceil_div(bytes, FM_STAGING_ALIGNMENT) + fm_ceil_div(bytes, FM_STAGING_PIECE)) * FM_STAGING_ALIGNMENT;
}
/* Bytes of one of them: all lengths, all slots, and an entry of every row or all of one. */
int64_t fm_staging_buffer_bytes(const fm_pool_sizes *sizes);

/* Arguments of a pool, checked. `segments` of the memory is allocated. */
flashmla_status fm_check_pool(const flashmla_pool_params *given, bool sizes_only, flashmla_pool_params *params,
                              fm_pool_sizes *sizes, fm_pool_memory *memory, fm_pool_arrays *arrays);

/* Begins a call: its lock, and the names of its caller in sentences. */
flashmla_status fm_enter_pool(flashmla_pool *pool);
static inline flashmla_status fm_leave_pool(flashmla_pool *pool, flashmla_status status) {
  pthread_mutex_unlock(&pool->lock);
  return status;
}
flashmla_status fm_check_result(const void *pointer, const char *name);

/* arrays.c: what has changed. The row of a sequence, entries [first, end); its length as it is shown. */
void fm_mark_row(flashmla_pool *pool, int32_t row, int32_t first, int32_t end);
void fm_show_length(flashmla_pool *pool, int32_t row, int32_t length);
void fm_show_sequence(flashmla_pool *pool, const fm_sequence *sequence, int32_t first, int32_t end);
/* What swapped the sequence in is waited for from now on, and it is shown. */
void fm_settle(flashmla_pool *pool, fm_sequence *sequence);
/* Makes `stream` wait for the swaps that blocks in use were part of. */
flashmla_status fm_wait_for_swaps(flashmla_pool *pool, void *stream);

#endif /* FLASHMLA_POOL_POOL_H_ */
