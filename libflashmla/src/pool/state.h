/* state.h - the books as bytes. All numbers are little-endian; a header, then:
 *   a fm_saved_block for each block, a fm_saved_sequence for each record;
 *   the numbers (int32) of the free blocks, the cached ones, free records, free rows, free host blocks, each in the
 *   order in which they are handed out;
 *   for each record in use, by number: its blocks, or, swapped out, its host blocks, then a fm_hash for each of those;
 *   zeros up to a multiple of 8 bytes. */
#ifndef FLASHMLA_POOL_STATE_H_
#define FLASHMLA_POOL_STATE_H_

#include "pool/books.h"

#define FM_STATE_MAGIC "FMLAPOOL"
enum { FM_STATE_VERSION = 1 };

typedef struct fm_state_header {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint64_t bytes; /* in all */
  fm_hash sum;    /* SipHash with key 0 of all that follows */
  fm_pool_sizes sizes;
  uint64_t key[2];
  uint64_t tag;
  int32_t free_blocks, cached_blocks, free_records, free_rows, free_host_blocks;
  int32_t reserved; /* 0 */
} fm_state_header;
enum { FM_SUMMED_FROM = offsetof(fm_state_header, sizes) };
_Static_assert(sizeof(fm_state_header) == 40 + 40 + 24 + 24, "no padding");

typedef struct fm_saved_block {
  int32_t holds, published;
  fm_hash hash;
} fm_saved_block;

typedef struct fm_saved_sequence {
  uint32_t generation;
  int32_t state; /* FM_NOWHERE, FM_RESIDENT, FM_SWAPPED */
  int32_t row, length, head, committed_blocks;
  fm_hash chain, head_chain;
} fm_saved_sequence;

static inline fm_hash fm_state_sum(const unsigned char *bytes, uint64_t count) {
  static const uint64_t key[2];
  uint64_t word;
  fm_hashing hashing;
  fm_hash_begin(&hashing, key);
  for (uint64_t i = 0; i + sizeof word <= count; i += sizeof word) {
    __builtin_memcpy(&word, bytes + i, sizeof word); /* bytes may lie anywhere */
    fm_hash_words(&hashing, &word, 1);
  }
  return fm_hash_end(&hashing);
}

#endif /* FLASHMLA_POOL_STATE_H_ */
