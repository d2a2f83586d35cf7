/* pool.h - pools of the pages of a KV cache; rules that hold for every function: flashmla.h. */
#ifndef FLASHMLA_POOL_H_
#define FLASHMLA_POOL_H_

#include "core.h"
#include "kv_cache.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Pools ---- */

/* A pool: which blocks of a paged KV cache belong to which sequence. A block is a page of every layer. The pool hands
 * blocks out and takes them back, and keeps the tensors that attention and writers read: a row of block_table and an
 * entry of cache_seqlens for each sequence, and the slots of the tokens appended last. It allocates neither device nor
 * pinned memory; its books are host memory, allocated when it is made, so that no later call but a load allocates any.
 * Every call takes time in proportion to the blocks, sequences and tokens that it names, however large the pool is.
 *
 * Sequences have the tokens [0, length). All but the last block of a sequence are full. A block may belong to several
 * sequences, by a fork or because they begin with the same tokens; before tokens are written into one that others have,
 * too, the pool copies it in every layer (copy on write).
 *
 * Prefix cache: flashmla_pool_commit publishes full blocks under the hash of their tokens and all before them, and
 * flashmla_pool_allocate lets a new sequence begin with the published blocks that fit. The hash of a block is the
 * 128-bit SipHash-2-4, with hash_key, of the hash of the block before it (of the first: 16 zero bytes) and its token
 * ids, 8 bytes each, little-endian. Two prefixes get the same hash with probability 2^-128, to whoever does not know
 * the key. What else decides a token's row, such as an adapter or an image, has to be part of its 64-bit id. A
 * published block that no sequence has is cached: it is handed out again only where no block is free, the one first
 * that was left for the longest time; of those left together the later ones of the sequence first.
 *
 * Streams: on CUDA, calls that get `stream` enqueue work there, and swaps on a stream of the pool's own which waits for
 * what is on `stream` and which `stream` waits for before a block is used again. So all work that reads or writes the
 * caches and the arrays has to be ordered as if on one stream. During the capture of a graph no such call may be made;
 * graphs that read the arrays see in each replay what was uploaded before it. On the CPU calls copy at once.
 *
 * A status of 1xx, 2xx or 4xx changed nothing, but that a flashmla_pool_update may have done a part. After 3xx the
 * sequences are as they were, but cached blocks may be gone.
 */
typedef struct flashmla_pool flashmla_pool;

/* The name of a sequence, from flashmla_pool_allocate or flashmla_pool_fork; never 0, below 2^63, and not used again
 * for another sequence (of the pool, before its place was used 2^32 times). A name of another pool is refused, but for
 * pools that were made 127 pools before this one or behind it, or a multiple of that. */
typedef uint64_t flashmla_sequence;

/* Arguments of flashmla_pool_create. */
typedef struct flashmla_pool_params {
  uint32_t struct_size; /* sizeof(flashmla_pool_params) */
  uint32_t flags;       /* 0 */
  /* num_layers tensors (num_blocks, page_size, h_kv, row), or one (num_layers, num_blocks, page_size, h_kv, row) where
   * num_layers is 0; see flashmla_kv_format. A page is contiguous; the strides between pages and layers are free,
   * multiples of 16 bytes as the addresses */
  const DLTensor *const *kv_cache;
  int32_t num_layers;            /* 0: stacked */
  int32_t kv_format;             /* flashmla_kv_format */
  const DLTensor *block_table;   /* (max_seqs, max_blocks) int32, innermost stride 1, written */
  const DLTensor *cache_seqlens; /* (max_seqs) int32, contiguous, written */
  const DLTensor *slot_mapping;  /* (max_slots) int64, contiguous, written */
  /* (num_host_blocks, block_bytes) uint8, contiguous, in host memory, which should be pinned; block_bytes: as
   * flashmla_pool_block_bytes says. Where swapped sequences go; NULL: there is no swap */
  const DLTensor *host_pool;
  /* (bytes) uint8, contiguous, in host memory, which should be pinned: else uploads are copies, which wait for those of
   * swaps; bytes: at least what flashmla_pool_staging_size says. NULL where that is 0 */
  const DLTensor *staging;
  int32_t max_sequences; /* on the device and swapped out; 0: max_seqs + num_host_blocks */
  uint32_t reserved;     /* 0 */
  uint64_t hash_key[2];  /* of the prefix cache; any, secret where users may choose tokens to harm others */
  void *stream;          /* on CUDA the arrays are filled there: block_table and slot_mapping with -1, lengths with 0 */
} flashmla_pool_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_POOL_PARAMS_INIT \
  {sizeof(flashmla_pool_params), 0, NULL, 0, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, {0, 0}, NULL}

/* Tells the bytes of a block in all layers, a row of host_pool. Only kv_cache, num_layers and kv_format are looked at.
 * Returns FLASHMLA_OK, or what is wrong with them. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_block_bytes(const flashmla_pool_params *params,
                                                                      uint64_t *bytes);

/* Tells the bytes that staging needs; 0 on the CPU. The data of tensors, host_pool and staging are not looked at.
 * Returns FLASHMLA_OK, or what is wrong. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_staging_size(const flashmla_pool_params *params,
                                                                       uint64_t *bytes);

/* Makes a pool in which all blocks are free. The memory of all tensors has to live as long as the pool. Returns
 * FLASHMLA_OK; what is wrong with the arguments; FLASHMLA_ERROR_OUT_OF_MEMORY; or 3xx where the driver fails. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_create(const flashmla_pool_params *params,
                                                                 flashmla_pool **pool);

/* Frees a pool; NULL is allowed. No call with it may be in progress. Waits for swaps and uploads that are under way, so
 * that the memory of its tensors may be freed then as far as the pool is concerned. */
FLASHMLA_API void flashmla_pool_destroy(flashmla_pool *pool);

/* ---- Sequences ---- */

/* Makes a sequence. It begins with the longest published prefix of `tokens` (num_tokens ids; NULL and 0: none) of whole
 * blocks, which is one token shorter than they are at most, so that one is left to be computed. *cached is its length.
 * Returns FLASHMLA_OK, or FLASHMLA_ERROR_TABLE_FULL. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_allocate(flashmla_pool *pool, const int64_t *tokens,
                                                                   int64_t num_tokens, flashmla_sequence *sequence,
                                                                   int64_t *cached);

/* Tells how many tokens flashmla_pool_allocate would share now. Returns FLASHMLA_OK, or FLASHMLA_ERROR_VALUE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_match(flashmla_pool *pool, const int64_t *tokens,
                                                                int64_t num_tokens, int64_t *cached);

/* Makes room for counts[i] new tokens of sequences[i] (NULL: 1 each), each named once, of all of them or of none.
 * slot_mapping then begins with the slots of these tokens, of the first sequence first, and is -1 behind them; *total
 * is their number. A count of 0 is allowed. Blocks that others have, too, are copied on `stream`. The arrays change
 * with the next flashmla_pool_update. Returns FLASHMLA_OK; FLASHMLA_ERROR_OUT_OF_BLOCKS; FLASHMLA_ERROR_CAPACITY;
 * FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_VALUE; or 3xx. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_append(flashmla_pool *pool,
                                                                 const flashmla_sequence *sequences,
                                                                 const int32_t *counts, int32_t num_sequences,
                                                                 void *stream, int64_t *total);

/* Publishes the full blocks among the first num_tokens tokens of a sequence, whose ids are `tokens`; those of blocks
 * that were committed before are not read. What is to be written there has to be enqueued. Where a block with the same
 * hash is published already, it stays that one. Returns FLASHMLA_OK; FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_VALUE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_commit(flashmla_pool *pool, flashmla_sequence sequence,
                                                                 const int64_t *tokens, int64_t num_tokens);

/* Makes a sequence with the same tokens, in the same blocks. Returns FLASHMLA_OK; FLASHMLA_ERROR_SEQUENCE;
 * FLASHMLA_ERROR_TABLE_FULL. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_fork(flashmla_pool *pool, flashmla_sequence sequence,
                                                               flashmla_sequence *child);

/* Cuts a sequence to `length` tokens, as when draft tokens were rejected: no more than it has, and no fewer than
 * flashmla_pool_free_head gave up. Returns FLASHMLA_OK; FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_VALUE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_truncate(flashmla_pool *pool, flashmla_sequence sequence,
                                                                   int64_t length);

/* Gives up the blocks all of whose tokens are before token `first`, at most the length, as a sliding window does. Their
 * entries of block_table become -1. Returns FLASHMLA_OK; FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_VALUE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_free_head(flashmla_pool *pool, flashmla_sequence sequence,
                                                                    int64_t first);

/* Ends a sequence, wherever it is. Returns FLASHMLA_OK, or FLASHMLA_ERROR_SEQUENCE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_free(flashmla_pool *pool, flashmla_sequence sequence);

/* Copies the blocks of a sequence to host_pool, each to one of its own, and gives up those on the device and its row.
 * The copies are enqueued on the pool's own stream, behind what is on `stream`. Returns FLASHMLA_OK;
 * FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_OUT_OF_HOST_BLOCKS; 3xx. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_swap_out(flashmla_pool *pool, flashmla_sequence sequence,
                                                                   void *stream);

/* Brings a sequence back, into blocks of its own, or the published ones of the same tokens where it was committed, and
 * a row that may be another one. So that the copies overlap with other work its length in cache_seqlens is 0 until a
 * call that changes it, as a flashmla_pool_append of it, of no tokens too, makes `stream` wait for them. Returns
 * FLASHMLA_OK; FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_OUT_OF_BLOCKS; FLASHMLA_ERROR_TABLE_FULL; 3xx. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_swap_in(flashmla_pool *pool, flashmla_sequence sequence,
                                                                  void *stream);

/* Brings the arrays up to date: what has changed since the last time is written, on `stream`. Returns FLASHMLA_OK;
 * FLASHMLA_ERROR_STAGING_BUSY where so many uploads are under way that staging is full: wait for the stream and call
 * again, until it is done; 3xx. What was not done is done by the next call. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_update(flashmla_pool *pool, void *stream);

/* ---- Holds of blocks ---- */

/* Keeps a block that is in use from being handed out, or counts one more hold of it: for others that read it. Its
 * tokens stay as they are. Returns FLASHMLA_OK, or FLASHMLA_ERROR_BLOCK. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_hold(flashmla_pool *pool, int32_t block);

/* Ends a hold. Returns FLASHMLA_OK, or FLASHMLA_ERROR_BLOCK for a block that is not held. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_release(flashmla_pool *pool, int32_t block);

/* ---- Usage ---- */

/* What a pool's blocks are used for: num_blocks == free_blocks + cached_blocks + used_blocks. */
typedef struct flashmla_pool_usage {
  uint32_t struct_size; /* sizeof(flashmla_pool_usage): set it before the call, which writes no more than that */
  int32_t num_blocks;
  int32_t free_blocks;
  int32_t cached_blocks; /* of no sequence, published: to be shared again, or handed out when none is free */
  int32_t used_blocks;   /* of a sequence, or held */
  int32_t shared_blocks; /* of used_blocks, by more than one sequence or hold */
  int32_t num_host_blocks;
  int32_t free_host_blocks;
  int32_t max_seqs; /* rows of block_table */
  int32_t free_rows;
  int32_t sequences; /* that there are */
  int32_t swapped_sequences;
} flashmla_pool_usage;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_POOL_USAGE_INIT {sizeof(flashmla_pool_usage), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* What a pool knows of a sequence. */
typedef struct flashmla_pool_sequence {
  uint32_t struct_size; /* sizeof(flashmla_pool_sequence): set it before the call, which writes no more than that */
  int32_t row;          /* of block_table and cache_seqlens, the same while it is on the device; -1: swapped out */
  int32_t length;       /* tokens */
  int32_t num_blocks;   /* that it has, on the device or in host_pool */
  int32_t head_blocks;  /* before those, that flashmla_pool_free_head gave up */
  int32_t committed;    /* tokens that flashmla_pool_commit has seen, whole blocks */
} flashmla_pool_sequence;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_POOL_SEQUENCE_INIT {sizeof(flashmla_pool_sequence), 0, 0, 0, 0, 0}

/* Tells what the blocks are used for; usage->struct_size says how long the struct is, and what this library does not
 * know of it becomes 0. Returns FLASHMLA_OK; FLASHMLA_ERROR_STRUCT_SIZE; FLASHMLA_ERROR_NULL_POINTER. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_get_usage(flashmla_pool *pool, flashmla_pool_usage *usage);

/* Tells about a sequence, as flashmla_pool_get_usage does. Returns that, or FLASHMLA_ERROR_SEQUENCE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_get_sequence(flashmla_pool *pool, flashmla_sequence sequence,
                                                                       flashmla_pool_sequence *about);

/* Writes the blocks of a sequence, num_blocks of flashmla_pool_get_sequence, in the order of their tokens, to blocks[0
 * : capacity]: numbers of pages, or of rows of host_pool where it is swapped out. Returns FLASHMLA_OK;
 * FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_VALUE where there are more. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_get_blocks(flashmla_pool *pool, flashmla_sequence sequence,
                                                                     int32_t *blocks, int32_t capacity);

/* ---- Saved states ---- */

/* Tells the bytes that flashmla_pool_save writes now. Returns FLASHMLA_OK, or FLASHMLA_ERROR_NULL_POINTER. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_save_size(flashmla_pool *pool, uint64_t *bytes);

/* Writes the books, but neither caches nor host_pool, as bytes that flashmla_pool_load understands in another process.
 * Returns FLASHMLA_OK, or FLASHMLA_ERROR_WORKSPACE_TOO_SMALL where `bytes` are not what they need. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_save(flashmla_pool *pool, void *buffer, uint64_t bytes);

/* Takes over what flashmla_pool_save wrote, of a pool with the same blocks, arrays and hash_key, into one that has no
 * sequences and holds. The caller sees to it that caches and host_pool hold what they held. Names of its sequences are
 * those they had: a pool of this process that the caller made before may use the same ones. The bytes are looked at
 * before anything changes, and may be any. Returns FLASHMLA_OK; FLASHMLA_ERROR_STATE; FLASHMLA_ERROR_VALUE for a pool
 * that is in use; FLASHMLA_ERROR_OUT_OF_MEMORY. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_load(flashmla_pool *pool, const void *buffer, uint64_t bytes);

#ifdef __cplusplus
}
#endif

#endif /* FLASHMLA_POOL_H_ */
