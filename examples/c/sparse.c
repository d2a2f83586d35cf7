/* sparse.c - one token-sparse decode step over a cache in format "v32" on the CPU backend: append_kv writes the
 * rows, sparse_decode attends some of them, and a plain loop over what dequantize_kv reads checks it.
 * In the root of the source tree, after `python3 build.py lib`:
 *  gcc examples/c/sparse.c -Ilibflashmla/include -Lbuild -lflashmla -Wl,-R,bindings/python/flashmla -lm -o build/sparse
 *  build/sparse
 */
#include <flashmla/flashmla.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 16, D_QK = 576, D_V = 512, PAGES = 4, PAGE = 64, ROWS = 200, TOPK = 5, ROW_BYTES = 656 };

static uint16_t __attribute__((aligned(16))) q[1][1][HEADS][D_QK], latent[ROWS][D_V], rope[ROWS][D_QK - D_V],
    dequantized[PAGES * PAGE][D_QK]; /* bfloat16 */
static uint8_t __attribute__((aligned(16))) kv_cache[PAGES][PAGE][1][ROW_BYTES];
static float __attribute__((aligned(16))) out[1][1][HEADS][D_V], lse[1][HEADS][1];
static int64_t slot_mapping[ROWS]; /* page * PAGE + row; -1: the row is not written */
static const int32_t indices[1][1][TOPK] = {{{70, 199, -1, 3, 128}}}; /* slots likewise; -1: none */

#define TENSOR(array, rank, kind, bits, ...) \
  {(void *)array, {kDLCPU, 0}, rank, {kind, bits, 1}, (int64_t[]){__VA_ARGS__}, NULL, 0}

static uint16_t to_bfloat16(double x) { /* cuts off */
  const float value = (float)x;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)(bits >> 16);
}

static double from_bfloat16(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static int failed(flashmla_status status) {
  if (status != FLASHMLA_OK) fprintf(stderr, "%s\n", flashmla_last_error());
  return status != FLASHMLA_OK;
}

static double larger(double x, double y) { return x > y || isnan(x) ? x : y; } /* NaN, if either is */

int main(void) {
  for (size_t i = 0; i < sizeof q / 2; ++i) (&q[0][0][0][0])[i] = to_bfloat16(sin((double)i * 0.37));
  for (size_t i = 0; i < sizeof latent / 2; ++i) (&latent[0][0])[i] = to_bfloat16(cos((double)i * 0.11));
  for (size_t i = 0; i < sizeof rope / 2; ++i) (&rope[0][0])[i] = to_bfloat16(cos((double)i * 0.23));
  for (int i = 0; i < ROWS; ++i) slot_mapping[i] = i;

  /* clang-format off */
  DLTensor pages = TENSOR(kv_cache, 4, kDLUInt, 8, PAGES, PAGE, 1, ROW_BYTES),
           new_latent = TENSOR(latent, 2, kDLBfloat, 16, ROWS, D_V),
           new_rope = TENSOR(rope, 2, kDLBfloat, 16, ROWS, D_QK - D_V),
           slots = TENSOR(slot_mapping, 1, kDLInt, 64, ROWS),
           rows = TENSOR(dequantized, 2, kDLBfloat, 16, PAGES * PAGE, D_QK),
           queries = TENSOR(q, 4, kDLBfloat, 16, 1, 1, HEADS, D_QK),
           selected = TENSOR(indices, 3, kDLInt, 32, 1, 1, TOPK),
           result = TENSOR(out, 4, kDLFloat, 32, 1, 1, HEADS, D_V),
           log_sums = TENSOR(lse, 3, kDLFloat, 32, 1, HEADS, 1);
  /* clang-format on */

  flashmla_append_kv_params append = FLASHMLA_APPEND_KV_PARAMS_INIT;
  append.kv_format = FLASHMLA_KV_V32;
  append.kv_cache = &pages;
  append.latent = &new_latent;
  append.rope = &new_rope;
  append.slot_mapping = &slots;
  if (failed(flashmla_append_kv(&append))) return 1;

  flashmla_sparse_decode_params call = FLASHMLA_SPARSE_DECODE_PARAMS_INIT;
  call.flags = FLASHMLA_DEFAULT_SCALE;
  call.kv_format = FLASHMLA_KV_V32;
  call.q = &queries;
  call.kv_cache = &pages;
  call.indices = &selected;
  call.out = &result;
  call.lse = &log_sums;
  if (failed(flashmla_sparse_decode_workspace_size(&call, &call.workspace_size))) return 1;
  if (call.workspace_size > 0) call.workspace = malloc(call.workspace_size);
  const flashmla_status status = flashmla_sparse_decode(&call);
  free(call.workspace);
  if (failed(status)) return 1;
  const char *kernel = flashmla_last_kernel();

  flashmla_dequantize_kv_params dequantize = FLASHMLA_DEQUANTIZE_KV_PARAMS_INIT;
  dequantize.kv_format = FLASHMLA_KV_V32;
  dequantize.kv_cache = &pages;
  dequantize.out = &rows;
  if (failed(flashmla_dequantize_kv(&dequantize))) return 1;

  double worst = 0; /* the plain loop: out = sum_t exp(x_t) v_t / sum_t exp(x_t) */
  for (int h = 0; h < HEADS; ++h) {
    double sum = 0, expected[D_V] = {0};
    for (int t = 0; t < TOPK; ++t) {
      if (indices[0][0][t] < 0) continue;
      const uint16_t *k = dequantized[indices[0][0][t]];
      double x = 0;
      for (int d = 0; d < D_QK; ++d) x += from_bfloat16(q[0][0][h][d]) * from_bfloat16(k[d]);
      const double weight = exp(x / sqrt(D_QK));
      sum += weight;
      for (int d = 0; d < D_V; ++d) expected[d] += weight * from_bfloat16(k[d]);
    }
    worst = larger(worst, fabs(lse[0][h][0] - log(sum)));
    for (int d = 0; d < D_V; ++d) worst = larger(worst, fabs(out[0][0][h][d] - expected[d] / sum));
  }
  printf("%s: worst difference from the plain loop %.1e\n", kernel, worst);
  return worst < 1e-2 ? 0 : 1; /* weights are rounded to bfloat16 */
}
