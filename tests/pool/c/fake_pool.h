/* fake_pool.h - counts what a pool asks of its backend, and fails where a test says so. */
#ifndef FAKE_POOL_H_
#define FAKE_POOL_H_

typedef struct fake_copies {
  int copied, swapped, waited, uploaded, ended; /* blocks, blocks, swaps, parts, uploads */
  int fails_at;                                 /* the call of this number fails, from 1; 0: none */
  int calls;
} fake_copies;
extern fake_copies fake_pool;

#endif /* FAKE_POOL_H_ */
