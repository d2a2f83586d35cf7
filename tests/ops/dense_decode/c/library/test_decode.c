/* The CPU backend through the C ABI against plain float64 loops. Tensors are heap blocks of just their size, so that
 * AddressSanitizer sees any access outside them, whatever lengths and page numbers say. */
#include <math.h>

#include "check.h"
#include "fixture.h"

static uint32_t state = 7;

static float draw(void) { /* uniform in [-1, 1) */
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / 8388608.0f - 1.0f;
}

/* bfloat16 is the upper half of a float32, which keeps this test free of float16. */
static void store(const DLTensor *tensor, size_t at, float value) {
  if (tensor->dtype.bits == 32) {
    ((float *)tensor->data)[at] = value;
  } else {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)tensor->data)[at] = (uint16_t)(bits >> 16);
  }
}

static float load(const DLTensor *tensor, size_t at) {
  if (tensor->dtype.bits == 32) return ((const float *)tensor->data)[at];
  const uint32_t bits = (uint32_t)((const uint16_t *)tensor->data)[at] << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

typedef struct row {
  double out[1024], lse;
} row;

/* Where a request's query tokens are in a compact call: tokens [begin, begin + count) of q. */
typedef struct queries {
  int64_t begin, count;
} queries;

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

static int64_t integer(const fixture *f, int which, int64_t at) { return ((const int32_t *)f->tensor[which].data)[at]; }

static int is_varlen(const fixture *f) { return f->decode.cu_seqlens_q != NULL; }

static int64_t heads(const fixture *f) { return f->shape[Q][is_varlen(f) ? 1 : 2]; }

static queries queries_of(const fixture *f, int64_t request) {
  if (!is_varlen(f)) return (queries){request * f->shape[Q][1], f->shape[Q][1]};
  const int64_t begin = clamp(integer(f, CU_SEQLENS_Q, request), 0, f->shape[Q][0]);
  const int64_t end = clamp(integer(f, CU_SEQLENS_Q, request + 1), begin, f->shape[Q][0]);
  return (queries){begin, clamp(end - begin, 0, f->decode.max_seqlen_q)};
}

/* Whether query token `token` of `count` attends token t of the request's cache. */
static int attends(const fixture *f, int64_t request, int64_t token, int64_t count, int64_t t) {
  const flashmla_dense_decode_params *call = &f->decode;
  const int64_t masked = call->flags & FLASHMLA_CAUSAL ? count - 1 - token : 0;
  const int64_t capacity = f->shape[BLOCK_TABLE][1] * f->shape[KV_CACHE][1];
  const int64_t length = clamp(integer(f, CACHE_SEQLENS, request), 0, capacity);
  if (call->cp_world == 0) return t < length - masked;
  const int64_t turn = call->cp_interleave;
  const int64_t global = t / turn * turn * call->cp_world + call->cp_rank * turn + t % turn;
  return t < length && global < clamp(integer(f, GLOBAL_SEQLENS, request), 0, INT32_MAX) - masked;
}

/* Attention of one query row of a compact call. */
static row attend(const fixture *f, int64_t request, int64_t token, int64_t head) {
  const int64_t h_q = heads(f), h_kv = f->shape[KV_CACHE][2], page_size = f->shape[KV_CACHE][1];
  const int64_t max_blocks = f->shape[BLOCK_TABLE][1], d_qk = f->shape[KV_CACHE][3], d_v = fixture_d_v(d_qk);
  const int32_t *table = (const int32_t *)f->tensor[BLOCK_TABLE].data + request * max_blocks;
  const queries own = queries_of(f, request);
  const size_t q = (size_t)(((own.begin + token) * h_q + head) * d_qk);
  row r = {{0}, f->decode.flags & FLASHMLA_EMPTY_LSE_MINUS ? -INFINITY : INFINITY};
  double sum = 0;
  for (int64_t t = 0; t < max_blocks * page_size && attends(f, request, token, own.count, t); ++t) {
    const int32_t page = table[t / page_size];
    const int exists = page >= 0 && page < f->shape[KV_CACHE][0];
    const size_t k = exists ? (size_t)(((page * page_size + t % page_size) * h_kv + head / (h_q / h_kv)) * d_qk) : 0;
    double x = 0;
    for (size_t d = 0; exists && d < (size_t)d_qk; ++d)
      x += (double)load(&f->tensor[Q], q + d) * load(&f->tensor[KV_CACHE], k + d);
    const double weight = exp(x * (double)f->decode.softmax_scale);
    sum += weight;
    for (size_t d = 0; exists && d < (size_t)d_v; ++d) r.out[d] += weight * load(&f->tensor[KV_CACHE], k + d);
  }
  if (sum > 0) {
    r.lse = f->decode.flags & FLASHMLA_LSE_BASE2 ? log2(sum) : log(sum);
    for (int64_t d = 0; d < d_v; ++d) r.out[d] /= sum;
  }
  return r;
}

static void check_rows(const fixture *f) {
  const int64_t h_q = heads(f), d_v = fixture_d_v(f->shape[KV_CACHE][3]);
  const double tolerance = f->tensor[OUT].dtype.bits == 32 ? 1e-5 : 1e-2; /* a bfloat16 has 8 bits; |out| < 1 */
  for (int64_t i = 0; i < f->shape[BLOCK_TABLE][0]; ++i) {
    const queries own = queries_of(f, i);
    for (int64_t s = 0; s < own.count; ++s)
      for (int64_t h = 0; h < h_q; ++h) {
        const row r = attend(f, i, s, h);
        const int64_t lse_at = is_varlen(f) ? h * f->shape[Q][0] + own.begin + s : (i * h_q + h) * own.count + s;
        const double lse = ((const float *)f->tensor[LSE].data)[lse_at];
        CHECK(isinf(r.lse) ? lse == r.lse : fabs(lse - r.lse) < 1e-5);
        for (int64_t d = 0; d < d_v; ++d)
          CHECK(fabs(load(&f->tensor[OUT], (size_t)(((own.begin + s) * h_q + h) * d_v + d)) - r.out[d]) < tolerance);
      }
  }
}

/* A call with numbers in it. Every fourth and fifth page number is outside the cache. */
static void fill(fixture *f, geometry g, const int32_t *lengths, uint32_t flags) {
  fixture_init(f, g);
  const size_t element = g.dtype.bits / 8;
  for (size_t i = 0; i < f->bytes[Q] / element; ++i) store(&f->tensor[Q], i, draw());
  for (size_t i = 0; i < f->bytes[KV_CACHE] / element; ++i) store(&f->tensor[KV_CACHE], i, draw());
  int32_t *table = f->tensor[BLOCK_TABLE].data;
  for (int64_t i = 0; i < g.batch * g.max_blocks; ++i)
    table[i] = i % 5 == 3 ? INT32_MIN + (int32_t)i : i % 5 == 4 ? 2147480000 : (int32_t)(i * 3 % g.num_blocks);
  memcpy(f->tensor[CACHE_SEQLENS].data, lengths, (size_t)g.batch * sizeof(int32_t));
  f->decode.flags = flags;
  f->decode.num_threads = 2;
}

static void run(fixture *f, int32_t num_splits) {
  if (num_splits >= 0)
    fixture_use_plan(f, num_splits);
  else
    fixture_allocate_workspace(f);
  CHECK_OK(flashmla_dense_decode(&f->decode));
}

static void decode(geometry g, const int32_t *lengths, uint32_t flags, int32_t num_splits) {
  fixture f;
  fill(&f, g, lengths, flags);
  run(&f, num_splits);
  check_rows(&f);
  fixture_free(&f);
}

/* Where the size query says 0, NULL is a workspace. */
static void decode_without_workspace(const int32_t *lengths) {
  fixture f;
  fill(&f, (geometry){4, 2, 6, 2, 5, 64, 3, .dtype = BF16}, lengths, 0);
  fixture_use_plan(&f, 1);
  CHECK(f.decode.workspace_size == 0);
  free(f.decode.workspace);
  f.decode.workspace = NULL;
  CHECK_OK(flashmla_dense_decode(&f.decode));
  check_rows(&f);
  flashmla_prepared *prepared;
  CHECK_OK(flashmla_dense_decode_prepare(&f.decode, &prepared));
  memset(f.tensor[OUT].data, OUTPUT_FILL, f.bytes[OUT]);
  CHECK_OK(flashmla_dense_decode_run(prepared, &f.decode));
  check_rows(&f);
  flashmla_prepared_free(prepared);
  fixture_free(&f);
}

static void decode_varlen(geometry g, const int32_t *lengths, const int32_t *offsets, uint32_t flags,
                          int32_t num_splits) {
  fixture f;
  fill(&f, g, lengths, flags);
  memcpy(f.tensor[CU_SEQLENS_Q].data, offsets, (size_t)(g.batch + 1) * sizeof(int32_t));
  run(&f, num_splits);
  check_rows(&f);
  fixture_free(&f);
}

/* The plan is made for other query tokens and lengths than the call has. */
static void decode_varlen_later(const int32_t *lengths, const int32_t *offsets, uint32_t flags) {
  fixture f;
  fill(&f, (geometry){4, 3, 70, 1, 5, 16, 40, .dtype = FP32, .varlen = 1, .total_q = 9}, lengths, flags);
  for (int i = 0; i < 4; ++i) ((int32_t *)f.tensor[CACHE_SEQLENS].data)[i] = 200 * i;
  fixture_use_plan(&f, 0);
  memcpy(f.tensor[CACHE_SEQLENS].data, lengths, 4 * sizeof(int32_t));
  memcpy(f.tensor[CU_SEQLENS_Q].data, offsets, 5 * sizeof(int32_t));
  CHECK_OK(flashmla_dense_decode(&f.decode));
  check_rows(&f);
  fixture_free(&f);
}

/* The bits do not depend on how far the limit on query tokens is from any that a request has. */
static void decode_without_limit(const int32_t *lengths, const int32_t *offsets, uint32_t flags, int32_t num_splits) {
  const geometry g = {4, 9, 70, 1, 5, 16, 40, .dtype = FP32, .varlen = 1, .total_q = 9};
  fixture f[2];
  for (int i = 0; i < 2; ++i) {
    state = 7;
    fill(&f[i], g, lengths, flags);
    memcpy(f[i].tensor[CU_SEQLENS_Q].data, offsets, 5 * sizeof(int32_t));
    if (i == 1) f[i].decode.max_seqlen_q = f[i].plan_params.max_seqlen_q = INT32_MAX;
    run(&f[i], num_splits);
  }
  check_rows(&f[1]);
  for (int which = OUT; which <= LSE; ++which)
    CHECK(memcmp(f[0].tensor[which].data, f[1].tensor[which].data, f[0].bytes[which]) == 0);
  fixture_free(&f[0]);
  fixture_free(&f[1]);
}

/* What is only read may repeat its rows: all requests have the first one's query, pages and cache. */
static void decode_repeated(uint32_t flags) {
  const int32_t lengths[] = {130, 130, 130, 130};
  fixture f;
  fill(&f, (geometry){4, 2, 6, 2, 5, 16, 9, .dtype = FP32}, lengths, flags);
  f.strides[Q][0] = f.strides[Q][1] = f.strides[BLOCK_TABLE][0] = f.strides[KV_CACHE][0] = f.strides[KV_CACHE][2] = 0;
  run(&f, 0);
  const size_t rows = f.bytes[OUT] / 8 / 6, lses = f.bytes[LSE] / 4;
  for (int i = 1; i < 4; ++i) {
    const char *out = f.tensor[OUT].data, *lse = f.tensor[LSE].data;
    CHECK(memcmp(out, out + (size_t)i * 12 * rows, 12 * rows) == 0 && memcmp(lse, lse + (size_t)i * lses, lses) == 0);
  }
  /* The same tensors written out. */
  const DLTensor repeated[] = {f.tensor[Q], f.tensor[KV_CACHE], f.tensor[BLOCK_TABLE]};
  fixture whole;
  fill(&whole, (geometry){4, 2, 6, 2, 5, 16, 9, .dtype = FP32}, lengths, flags);
  for (size_t row = 0; row < 8; ++row)
    memcpy((char *)whole.tensor[Q].data + row * 6 * 576 * 4, repeated[0].data, (size_t)6 * 576 * 4);
  for (size_t at = 0; at < (size_t)5 * 16 * 2; ++at)
    memcpy((char *)whole.tensor[KV_CACHE].data + at * 576 * 4,
           (const char *)repeated[1].data + at / 2 % 16 * 2 * 576 * 4, (size_t)576 * 4);
  for (size_t i = 0; i < 4; ++i)
    memcpy((int32_t *)whole.tensor[BLOCK_TABLE].data + i * 9, repeated[2].data, 9 * sizeof(int32_t));
  run(&whole, 0);
  check_rows(&whole);
  for (int which = OUT; which <= LSE; ++which)
    CHECK(memcmp(f.tensor[which].data, whole.tensor[which].data, f.bytes[which]) == 0);
  fixture_free(&whole);
  fixture_free(&f);
}

static void decode_shard(int32_t rank, int32_t world, int32_t interleave, uint32_t flags) {
  const int32_t lengths[] = {90, 0, 200, 64}, global[] = {150, 3, INT32_MAX, -4};
  fixture f;
  fill(&f, (geometry){4, 3, 4, 2, 5, 16, 13, .dtype = FP32, .d_qk = 512}, lengths, flags);
  memcpy(f.tensor[GLOBAL_SEQLENS].data, global, sizeof global);
  f.decode.cp_rank = rank;
  f.decode.cp_world = world;
  f.decode.cp_interleave = interleave;
  f.decode.global_seqlens = &f.tensor[GLOBAL_SEQLENS];
  run(&f, -1);
  check_rows(&f);
  fixture_free(&f);
}

int main(void) {
  const int32_t lengths[] = {0, 130, 1000000, -3}, edges[] = {1, 63, 64, 65};
  decode((geometry){4, 2, 6, 2, 5, 64, 3, .dtype = BF16}, lengths, 0, -1);
  decode((geometry){4, 3, 6, 2, 5, 64, 3, .dtype = FP32}, lengths, FLASHMLA_CAUSAL, 0);
  decode((geometry){4, 1, 17, 1, 7, 53, 4, .dtype = FP32}, edges, 0, 3);
  decode((geometry){4, 1, 1, 1, 200, 1, 70, .dtype = BF16}, edges, FLASHMLA_CAUSAL, 32);
  decode((geometry){1, 5, 130, 1, 3, 64, 2, .dtype = BF16}, edges + 3, FLASHMLA_CAUSAL, 1);
  decode_without_workspace(lengths);

  decode((geometry){4, 2, 4, 1, 5, 16, 9, .dtype = FP32, .d_qk = 512}, lengths, FLASHMLA_LSE_BASE2, -1);
  static const int64_t d_qk[] = {320, 288, 160, 1088};
  for (int i = 0; i < 4; ++i)
    decode((geometry){4, 1, 4, 2, 5, 256, 2, .dtype = BF16, .d_qk = d_qk[i]}, lengths, FLASHMLA_EMPTY_LSE_MINUS, 3);
  decode((geometry){4, 1, 9, 1, 5, 16, 200, .dtype = FP32}, lengths, FLASHMLA_BATCH_INVARIANT, 0);
  decode((geometry){4, 1, 9, 1, 5, 16, 200, .dtype = FP32}, edges, FLASHMLA_BATCH_INVARIANT, -1);

  const geometry varlen = {4, 3, 70, 1, 5, 16, 40, .dtype = FP32, .varlen = 1, .total_q = 9};
  const int32_t in_order[] = {0, 3, 3, 4, 9}, wild[] = {5, INT32_MIN, 2, INT32_MAX, 7}, long_ones[] = {600, 530, 0, 65};
  decode_varlen(varlen, lengths, in_order, FLASHMLA_CAUSAL, -1);
  decode_varlen(varlen, long_ones, in_order, FLASHMLA_CAUSAL, 0);
  decode_varlen(varlen, long_ones, in_order, FLASHMLA_CAUSAL, 5);
  decode_varlen(varlen, long_ones, in_order, FLASHMLA_BATCH_INVARIANT, 0);
  decode_varlen(varlen, long_ones, wild, FLASHMLA_CAUSAL, -1);
  decode_varlen_later(long_ones, in_order, 0);
  decode_varlen_later(long_ones, wild, FLASHMLA_CAUSAL);
  decode_varlen_later(long_ones, in_order, FLASHMLA_BATCH_INVARIANT | FLASHMLA_CAUSAL);

  decode_repeated(0);
  decode((geometry){4, 2, 6, 2, 5, 64, 0, .dtype = BF16}, lengths, 0, -1); /* a table without columns */
  decode((geometry){4, 3, 6, 2, 5, 64, 0, .dtype = FP32}, lengths, FLASHMLA_CAUSAL | FLASHMLA_EMPTY_LSE_MINUS, 0);
  decode((geometry){4, 3, 6, 2, 5, 64, 0, .dtype = FP32}, lengths, 0, 3);
  decode((geometry){4, 3, 6, 2, 5, 64, 0, .dtype = FP32}, lengths, FLASHMLA_BATCH_INVARIANT, 0);
  decode_without_limit(long_ones, in_order, FLASHMLA_CAUSAL, -1);
  decode_without_limit(long_ones, in_order, 0, 3);
  decode_without_limit(long_ones, in_order, FLASHMLA_BATCH_INVARIANT, -1);

  for (int32_t rank = 0; rank < 3; ++rank) decode_shard(rank, 3, 16, FLASHMLA_CAUSAL);
  decode_shard(1, 2, 1, 0);
  decode_shard(1, INT32_MAX, INT32_MAX, FLASHMLA_CAUSAL);
  return 0;
}
