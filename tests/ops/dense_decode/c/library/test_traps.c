/* A caller that traps invalid floating-point operations (feenableexcept) is not trapped by what it did not give:
 * padding of vectors that was never written, rows beyond a bound, dead slots of the cache. */
#include <fenv.h>

#include "check.h"
#include "fixture.h"

/* Under AddressSanitizer all memory begins as NaN, as what others left there might be. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "max_malloc_fill_size=1073741824:malloc_fill_byte=255"; }

static void decode(const char *isa, int64_t s_q, int64_t h_q, uint32_t flags, int32_t num_threads) {
  fixture f;
  fixture_init(&f, (geometry){4, s_q, h_q, 1, 2, 64, 2, .dtype = FP32});
  memset(f.tensor[KV_CACHE].data, 0xff, f.bytes[KV_CACHE]);
  float *kv = f.tensor[KV_CACHE].data, *q = f.tensor[Q].data;
  const int32_t lengths[4] = {77, 1, 0, 13};
  for (int64_t token = 0; token < 77; ++token) /* the pages of all requests are the same: the longest decides */
    for (int64_t d = 0; d < 576; ++d) kv[token * 576 + d] = (float)((token * 31 + d * 17) % 101) / 50 - 1;
  for (size_t i = 0; i < f.bytes[Q] / sizeof *q; ++i) q[i] = (float)(i % 89) / 44 - 1;
  memcpy(f.tensor[CACHE_SEQLENS].data, lengths, sizeof lengths);
  f.decode.flags |= flags;
  f.decode.num_threads = num_threads;
  setenv("FLASHMLA_CPU_ISA", isa, 1);
  flashmla_read_environment();
  feclearexcept(FE_ALL_EXCEPT);
  feenableexcept(FE_INVALID);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  fedisableexcept(FE_INVALID);
  fixture_free(&f);
}

int main(void) {
#ifdef __SANITIZE_ADDRESS__
  static const unsigned char nan[4] = {0xff, 0xff, 0xff, 0xff};
  char *fresh = malloc(1 << 20);
  __asm__ volatile("" : "+r"(fresh) : : "memory"); /* the compiler does not see whose it is */
  CHECK(memcmp(fresh + 4000, nan, sizeof nan) == 0);
  free(fresh);
#endif
  static const char *const isas[] = {"portable", "avx2", "avx512"};
  static const int64_t heads[] = {1, 2, 3, 8, 9, 37};
  for (size_t i = 0; i < sizeof isas / sizeof isas[0]; ++i) {
    for (size_t h = 0; h < sizeof heads / sizeof heads[0]; ++h) {
      for (int64_t s_q = 1; s_q <= 2; ++s_q) {
        decode(isas[i], s_q, heads[h], 0, 1);
        decode(isas[i], s_q, heads[h], FLASHMLA_CAUSAL, 3);
      }
    }
  }
  return 0;
}
