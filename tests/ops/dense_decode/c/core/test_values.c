/* A call on host memory goes on with the lengths and query offsets that it began with, whatever becomes of the
 * caller's. */
#include "check.h"
#include "ops/dense_decode/dense_decode.h"

enum { BATCH = 3 };
static int32_t lengths[BATCH] = {5, 6, 7}, offsets[BATCH + 1] = {0, 1, 2, 3}, global[BATCH] = {50, 60, 70};
static bool varlen, sharded;

static flashmla_status changed_meanwhile(const fm_call *call, const fm_dense_decode *decode) {
  const fm_work *work = &decode->attention.work;
  const int32_t *whole = decode->attention.mask.global_seqlens;
  CHECK(call == NULL && work->batch == BATCH && work->s_q == 9);
  CHECK((work->cu_seqlens_q != NULL) == varlen && (whole != NULL) == sharded);
  for (int i = 0; i < BATCH; i++) {
    lengths[i] = global[i] = -1;
    offsets[i + 1] = 1000;
  }
  for (int i = 0; i < BATCH; i++) {
    CHECK(work->lengths[i] == 5 + i);
    if (varlen) CHECK(work->cu_seqlens_q[i + 1] == i + 1);
    if (sharded) CHECK(whole[i] == 10 * (5 + i));
  }
  return FLASHMLA_ERROR_OVERFLOW;
}

int main(void) {
  for (int kind = 0; kind < 4; kind++) {
    varlen = kind & 1;
    sharded = kind & 2;
    for (int i = 0; i < BATCH; i++) {
      lengths[i] = 5 + i;
      offsets[i + 1] = i + 1;
      global[i] = 10 * (5 + i);
    }
    fm_dense_decode decode = {.attention.work = {.batch = BATCH, .s_q = 9, .lengths = lengths}};
    if (varlen) decode.attention.work.cu_seqlens_q = offsets;
    if (sharded) decode.attention.mask.global_seqlens = global;
    CHECK(fm_with_values_taken(NULL, &decode, changed_meanwhile) == FLASHMLA_ERROR_OVERFLOW);
    CHECK(decode.attention.work.lengths == lengths);
  }
  return 0;
}
