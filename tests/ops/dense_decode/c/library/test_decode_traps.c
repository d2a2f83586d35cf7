/* A caller that traps floating-point exceptions is not trapped by a step of decode: see traps.h. */
#include "fixture.h"
#include "traps.h"

enum { LONGEST = 77 };

static void fill(fixture *f, int64_t d_qk, int64_t h_kv) {
  const DLTensor *kv = &f->tensor[KV_CACHE], *q = &f->tensor[Q];
  poison(kv->data, f->bytes[KV_CACHE]);
  poison(f->decode.workspace, f->decode.workspace_size);
  for (int64_t i = 0; i < LONGEST * h_kv * d_qk; ++i) /* the pages of all requests are the same */
    put(kv, i, (float)((i * 31 + i / d_qk * 17) % 33) / 8 - 2);
  for (int64_t i = 0; i < (int64_t)(f->bytes[Q] * 8 / q->dtype.bits); ++i) put(q, i, (float)(i % 31) / 8 - 2);
  if (finite_only) return;
  put_nan(kv, 3 * h_kv * d_qk + 5);
  put(q, 7, __builtin_inff());
}

static void decode(geometry g, uint32_t flags, int32_t num_threads, float scale) {
  fixture f;
  fixture_init(&f, g);
  fill(&f, g.d_qk, g.h_kv);
  memcpy(f.tensor[CACHE_SEQLENS].data, (int32_t[]){LONGEST, 1, 0, 13}, 4 * sizeof(int32_t));
  f.decode.flags |= flags;
  f.decode.num_threads = num_threads;
  f.decode.softmax_scale = scale;
  CHECK_OK(flashmla_dense_decode(&f.decode));
  for (int32_t splits = 0; (flags & FLASHMLA_BATCH_INVARIANT) == 0 && splits <= 2; splits += 2) {
    fixture_use_plan(&f, splits);
    CHECK_OK(flashmla_dense_decode(&f.decode));
  }
  check_no_exception();
  fixture_free(&f);
}

int main(int arguments, char **unused) {
  (void)unused;
  static const int64_t heads[] = {1, 2, 3, 8, 9, 37};
  static const int64_t d_qk[] = {576, 512, 320, 288, 160, 1088};
  enable_traps(arguments);
  for (int isa = 0; isa < ISAS; ++isa) {
    setenv("FLASHMLA_CPU_ISA", isas[isa], 1);
    flashmla_read_environment();
    flashmla_read_environment();
    for (int type = 0; type < DTYPES; ++type) {
      for (size_t h = 0; h < sizeof heads / sizeof heads[0]; ++h) {
        geometry g = {4, 1, heads[h], 1, 2, 64, 2, .dtype = dtypes[type], .d_qk = d_qk[((size_t)type + h) % 6]};
        decode(g, 0, 1, 0.05f);
        g.s_q = 2;
        decode(g, FLASHMLA_CAUSAL, 3, 0.05f);
        decode(g, FLASHMLA_CAUSAL | FLASHMLA_LSE_BASE2 | FLASHMLA_BATCH_INVARIANT, 1, 1);
      }
      decode((geometry){4, 1, 6, 2, 2, 64, 2, .dtype = dtypes[type], .d_qk = 576}, FLASHMLA_CAUSAL, 2, 1e-6f);
    }
  }
  return 0;
}
