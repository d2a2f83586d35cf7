/* hash.c - see hash.h. */
#include "pool/hash.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are hashed as they lie");

static uint64_t rotated(uint64_t x, int32_t bits) { return x << bits | x >> (64 - bits); }

static void rounds(uint64_t v[4], int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    v[0] += v[1], v[2] += v[3];
    v[1] = rotated(v[1], 13) ^ v[0], v[3] = rotated(v[3], 16) ^ v[2];
    v[0] = rotated(v[0], 32);
    v[2] += v[1], v[0] += v[3];
    v[1] = rotated(v[1], 17) ^ v[2], v[3] = rotated(v[3], 21) ^ v[0];
    v[2] = rotated(v[2], 32);
  }
}

static void take(uint64_t v[4], uint64_t word) {
  v[3] ^= word;
  rounds(v, 2);
  v[0] ^= word;
}

void fm_hash_begin(fm_hashing *hashing, const uint64_t key[2]) {
  uint64_t *v = hashing->v;
  v[0] = key[0] ^ UINT64_C(0x736f6d6570736575);
  v[1] = key[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee; /* 128 bits are wanted */
  v[2] = key[0] ^ UINT64_C(0x6c7967656e657261);
  v[3] = key[1] ^ UINT64_C(0x7465646279746573);
  hashing->words = 0;
}

void fm_hash_words(fm_hashing *hashing, const uint64_t *words, int64_t count) {
  for (int64_t i = 0; i < count; ++i) take(hashing->v, words[i]);
  hashing->words += (uint64_t)count;
}

fm_hash fm_hash_end(fm_hashing *hashing) {
  uint64_t *v = hashing->v;
  take(v, hashing->words * sizeof(uint64_t) << 56); /* the low byte of the length in bytes, and no bytes are left */
  fm_hash hash;
  v[2] ^= 0xee;
  rounds(v, 4);
  hash.word[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
  v[1] ^= 0xdd;
  rounds(v, 4);
  hash.word[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
  return hash;
}
