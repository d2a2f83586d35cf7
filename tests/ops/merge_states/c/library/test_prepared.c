/* A prepared call of merge_states on the CPU is run by several threads at once, each with outputs of its own, and every
 * result is that of the plain call, bit for bit. */
#include <pthread.h>

#include "../parts.h"

enum { CALLERS = 4, ROUNDS = 3, MANY = 20 /* more than lie in a call itself */, UNTOUCHED = 0xa5 };

static parts p; /* its result is that of the plain call */
static flashmla_prepared *prepared;

static void fill(void) {
  uint16_t *rows = (uint16_t *)(void *)values; /* bfloat16, of either sign and near 1 */
  for (size_t i = 0; i < ROOM / sizeof *rows; ++i) rows[i] = (uint16_t)(0x3f00 + i * 2654435761u % 509 + (i % 2 << 15));
  float *sums = (float *)(void *)lses;
  for (size_t i = 0; i < ROOM / sizeof *sums; ++i) sums[i] = (float)(i % 11) * 0.5f;
}

/* What the call was prepared with is gone. */
static void prepare(int count) {
  parts *gone = malloc(sizeof *gone);
  CHECK(gone != NULL);
  init(gone, count, 0, 0);
  CHECK_OK(flashmla_merge_states_prepare(&gone->params, &prepared));
  free(gone);
}

static void *run_it(void *unused) {
  (void)unused;
  _Alignas(64) unsigned char rows[OUT_BYTES], sums[LSE_BYTES];
  DLTensor out = p.result_out, lse = p.result_lse;
  flashmla_merge_states_params call = p.params;
  out.data = rows;
  lse.data = sums;
  call.out = &out;
  call.lse = &lse;
  for (int i = 0; i < ROUNDS; ++i) {
    memset(rows, UNTOUCHED, sizeof rows);
    memset(sums, UNTOUCHED, sizeof sums);
    CHECK_OK(flashmla_merge_states_run(prepared, &call));
    CHECK(memcmp(rows, result, sizeof rows) == 0 && memcmp(sums, result_lses, sizeof sums) == 0);
  }
  return NULL;
}

int main(void) {
  const int counts[] = {3, MANY};
  fill();
  for (int i = 0; i < 2; ++i) {
    prepare(counts[i]);
    init(&p, counts[i], 0, 0);
    p.params.num_threads = 1;
    CHECK_OK(flashmla_merge_states(&p.params));
    pthread_t thread[CALLERS];
    for (int j = 0; j < CALLERS; ++j) CHECK(pthread_create(&thread[j], NULL, run_it, NULL) == 0);
    for (int j = 0; j < CALLERS; ++j) CHECK(pthread_join(thread[j], NULL) == 0);
    flashmla_prepared_free(prepared);
  }
  return 0;
}
