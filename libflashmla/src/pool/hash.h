/* hash.h - SipHash-2-4 with 128 bits (J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF", 2012, and its
 * reference implementation), over words of 8 bytes, little-endian. */
#ifndef FLASHMLA_POOL_HASH_H_
#define FLASHMLA_POOL_HASH_H_

#include <stdbool.h>
#include <stdint.h>

typedef struct fm_hash {
  uint64_t word[2];
} fm_hash;

typedef struct fm_hashing {
  uint64_t v[4];
  uint64_t words; /* so far */
} fm_hashing;

void fm_hash_begin(fm_hashing *hashing, const uint64_t key[2]);
void fm_hash_words(fm_hashing *hashing, const uint64_t *words, int64_t count);
fm_hash fm_hash_end(fm_hashing *hashing);

static inline bool fm_hash_equal(fm_hash a, fm_hash b) { return a.word[0] == b.word[0] && a.word[1] == b.word[1]; }

#endif /* FLASHMLA_POOL_HASH_H_ */
