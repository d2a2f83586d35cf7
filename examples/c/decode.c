/* decode.c - one step of paged MLA decode on the CPU backend, checked against a plain loop.
 * In the root of the source tree, after `python3 build.py lib`:
 *  gcc examples/c/decode.c -Ilibflashmla/include -Lbuild -lflashmla -Wl,-R,bindings/python/flashmla -lm -o build/decode
 *  build/decode
 */
#include <flashmla/flashmla.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 2, HEADS = 16, D_QK = 576, D_V = 512, PAGES = 4, PAGE = 64, MAX_PAGES = 2 };

static float __attribute__((aligned(16))) q[BATCH][1][HEADS][D_QK], kv_cache[PAGES][PAGE][1][D_QK],
    out[BATCH][1][HEADS][D_V], lse[BATCH][HEADS][1];
static const int32_t block_table[BATCH][MAX_PAGES] = {{2, 0}, {3, -1}}, cache_seqlens[BATCH] = {100, 37};

#define TENSOR(array, rank, kind, ...) \
  {(void *)array, {kDLCPU, 0}, rank, {kind, 32, 1}, (int64_t[]){__VA_ARGS__}, NULL, 0}

static double larger(double x, double y) { return x > y || isnan(x) ? x : y; } /* NaN, if either is */

int main(void) {
  for (size_t i = 0; i < sizeof q / 4; ++i) (&q[0][0][0][0])[i] = sinf((float)i * 0.37f);
  for (size_t i = 0; i < sizeof kv_cache / 4; ++i) (&kv_cache[0][0][0][0])[i] = cosf((float)i * 0.11f);

  /* clang-format off */
  DLTensor tensors[] = {
      TENSOR(q, 4, kDLFloat, BATCH, 1, HEADS, D_QK),
      TENSOR(kv_cache, 4, kDLFloat, PAGES, PAGE, 1, D_QK),
      TENSOR(block_table, 2, kDLInt, BATCH, MAX_PAGES),
      TENSOR(cache_seqlens, 1, kDLInt, BATCH),
      TENSOR(out, 4, kDLFloat, BATCH, 1, HEADS, D_V),
      TENSOR(lse, 3, kDLFloat, BATCH, HEADS, 1),
  };
  /* clang-format on */
  flashmla_dense_decode_params call = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
  call.flags = FLASHMLA_DEFAULT_SCALE;
  call.q = &tensors[0];
  call.kv_cache = &tensors[1];
  call.block_table = &tensors[2];
  call.cache_seqlens = &tensors[3];
  call.out = &tensors[4];
  call.lse = &tensors[5];
  flashmla_status status = flashmla_dense_decode_workspace_size(&call, &call.workspace_size);
  if (status == FLASHMLA_OK) {
    if (call.workspace_size > 0) call.workspace = malloc(call.workspace_size);
    status = flashmla_dense_decode(&call);
    free(call.workspace);
  }
  if (status != FLASHMLA_OK) return fprintf(stderr, "%s\n", flashmla_last_error()), 1;

  double checksum = 0, worst = 0; /* the plain loop: out = sum_t exp(x_t) v_t / sum_t exp(x_t) */
  for (int i = 0; i < BATCH; ++i)
    for (int h = 0; h < HEADS; ++h) {
      double sum = 0, expected[D_V] = {0};
      for (int t = 0; t < cache_seqlens[i]; ++t) {
        const float *k = kv_cache[block_table[i][t / PAGE]][t % PAGE][0];
        double x = 0;
        for (int d = 0; d < D_QK; ++d) x += (double)q[i][0][h][d] * k[d];
        const double weight = exp(x / sqrt(D_QK));
        sum += weight;
        for (int d = 0; d < D_V; ++d) expected[d] += weight * k[d];
      }
      worst = larger(worst, fabs(lse[i][h][0] - log(sum)));
      for (int d = 0; d < D_V; ++d) {
        worst = larger(worst, fabs(out[i][0][h][d] - expected[d] / sum));
        checksum += out[i][0][h][d];
      }
    }
  printf("%s: checksum %.6f, worst difference from the plain loop %.1e\n", flashmla_last_kernel(), checksum, worst);
  return worst < 1e-4 ? 0 : 1;
}
