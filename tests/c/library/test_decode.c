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
  double out[512], lse;
} row;

/* Attention of one query row of a compact call. */
static row attend(const fixture *f, int64_t request, int64_t token, int64_t head) {
  const int64_t s_q = f->shape[Q][1], h_q = f->shape[Q][2], h_kv = f->shape[KV_CACHE][2];
  const int64_t page_size = f->shape[KV_CACHE][1], max_blocks = f->shape[BLOCK_TABLE][1];
  const int32_t *table = (const int32_t *)f->tensor[BLOCK_TABLE].data + request * max_blocks;
  int64_t length = ((const int32_t *)f->tensor[CACHE_SEQLENS].data)[request];
  length = length < 0 ? 0 : length > max_blocks * page_size ? max_blocks * page_size : length;
  if (f->decode.flags & FLASHMLA_CAUSAL) length -= s_q - 1 - token;
  row r = {{0}, INFINITY};
  double sum = 0;
  for (int64_t t = 0; t < length; ++t) {
    const int32_t page = table[t / page_size];
    const int exists = page >= 0 && page < f->shape[KV_CACHE][0];
    const size_t k = exists ? (size_t)(((page * page_size + t % page_size) * h_kv + head / (h_q / h_kv)) * 576) : 0;
    const size_t q = (size_t)(((request * s_q + token) * h_q + head) * 576);
    double x = 0;
    for (size_t d = 0; exists && d < 576; ++d)
      x += (double)load(&f->tensor[Q], q + d) * load(&f->tensor[KV_CACHE], k + d);
    const double weight = exp(x * (double)f->decode.softmax_scale);
    sum += weight;
    for (size_t d = 0; exists && d < 512; ++d) r.out[d] += weight * load(&f->tensor[KV_CACHE], k + d);
  }
  if (sum > 0) {
    r.lse = log(sum);
    for (int d = 0; d < 512; ++d) r.out[d] /= sum;
  }
  return r;
}

static void check_rows(const fixture *f) {
  const int64_t batch = f->shape[Q][0], s_q = f->shape[Q][1], h_q = f->shape[Q][2];
  const double tolerance = f->tensor[Q].dtype.bits == 32 ? 1e-5 : 1e-2; /* a bfloat16 has 8 bits; |out| < 1 */
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t s = 0; s < s_q; ++s)
      for (int64_t h = 0; h < h_q; ++h) {
        const row r = attend(f, i, s, h);
        const double lse = ((const float *)f->tensor[LSE].data)[(i * h_q + h) * s_q + s];
        CHECK(isinf(r.lse) ? lse == r.lse : fabs(lse - r.lse) < 1e-5);
        for (int64_t d = 0; d < 512; ++d)
          CHECK(fabs(load(&f->tensor[OUT], (size_t)(((i * s_q + s) * h_q + h) * 512 + d)) - r.out[d]) < tolerance);
      }
}

static void decode(geometry g, const int32_t *lengths, uint32_t flags, int32_t num_splits) {
  fixture f;
  fixture_init(&f, g);
  const size_t element = g.dtype.bits / 8;
  for (size_t i = 0; i < f.bytes[Q] / element; ++i) store(&f.tensor[Q], i, draw());
  for (size_t i = 0; i < f.bytes[KV_CACHE] / element; ++i) store(&f.tensor[KV_CACHE], i, draw());
  int32_t *table = f.tensor[BLOCK_TABLE].data;
  for (int64_t i = 0; i < g.batch * g.max_blocks; ++i)
    table[i] = i % 5 == 3 ? INT32_MIN + (int32_t)i : i % 5 == 4 ? 2147480000 : (int32_t)(i * 3 % g.num_blocks);
  memcpy(f.tensor[CACHE_SEQLENS].data, lengths, (size_t)g.batch * sizeof(int32_t));
  f.decode.flags = flags;
  f.decode.num_threads = 2;
  if (num_splits >= 0) fixture_use_plan(&f, num_splits);
  CHECK_OK(flashmla_dense_decode(&f.decode));
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
  return 0;
}
