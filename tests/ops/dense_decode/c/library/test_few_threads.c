/* Calls with little to do keep to their thread, however many they may have; calls with much to do take them all. */
#include <unistd.h>

#include "fixture.h"
#include "workers.h"

enum { THREADS = 4 };

static void decode(int64_t h_q, int32_t tokens, DLDataType dtype) {
  fixture f;
  fixture_init(&f, (geometry){1, 1, h_q, 1, 64, 64, 64, .dtype = dtype});
  memcpy(f.tensor[CACHE_SEQLENS].data, &tokens, sizeof tokens);
  f.decode.num_threads = THREADS;
  CHECK_OK(flashmla_dense_decode(&f.decode));
  fixture_free(&f);
}

static void with_all_sets(int64_t h_q, int32_t tokens) {
  static const char *const isas[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};
  for (size_t i = 0; i < sizeof isas / sizeof isas[0]; ++i) {
    setenv("FLASHMLA_CPU_ISA", isas[i], 1);
    flashmla_read_environment();
    decode(h_q, tokens, BF16);
    decode(h_q, tokens, FP32);
  }
}

int main(void) {
  with_all_sets(1, 512); /* 3.3 million operations */
  with_all_sets(16, 64);
  with_all_sets(128, 12);
  CHECK(workers() == 0);
  for (int tries = 0; tries < 100 && workers() < THREADS - 1; ++tries) { /* those of before may have ended */
    with_all_sets(16, 4096);
    CHECK(workers() <= THREADS - 1);
  }
  CHECK(workers() == THREADS - 1);
  return 0;
}
