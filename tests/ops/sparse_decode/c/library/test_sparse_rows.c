/* Calls on host memory against the definition in attention.h, in float64, over every pair of formats: under sanitizers,
 * which see a read of what is not selected. */
#include <math.h>
#include <stdbool.h>

#include "../selections.h"

enum { D_V = 512, MOST_D_QK = 576, EXTRA_KEYS = EXTRA_BLOCKS * EXTRA_PAGE, KEYS = BLOCKS * PAGE, TOKENS = BATCH * S_Q };

static uint32_t state = 1;

static int64_t draw(int64_t low, int64_t high) {
  state = state * 1664525u + 1013904223u;
  return low + (int64_t)((uint64_t)(state >> 8) * (uint64_t)(high - low + 1) >> 24);
}

static float load(const uint16_t *bits) {
  const uint32_t wide = (uint32_t)*bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

static void fill_bf16(void *to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = (float)draw(-128, 128) / 128.0f; /* has as many bits as a bfloat16 */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)to)[i] = (uint16_t)(bits >> 16);
  }
}

/* A cache with numbers in it, and what it holds as rows. */
static void fill_cache(DLTensor *cache, int32_t kv_format, float rows[][MOST_D_QK], int64_t count, int64_t d_qk) {
  static _Alignas(64) uint16_t given[KEYS * MOST_D_QK], held[KEYS * MOST_D_QK];
  int64_t shape[2] = {count, d_qk}, strides[2] = {d_qk, 1};
  DLTensor latent = {given, {kDLCPU, 0}, 2, BF16, shape, strides, 0}, out = latent;
  out.data = held;
  fill_bf16(given, count * d_qk);
  if (kv_format == FLASHMLA_KV_BF16) {
    memcpy(cache->data, given, (size_t)(count * d_qk) * sizeof *given);
    memcpy(held, given, sizeof held);
  } else {
    flashmla_quantize_kv_params quantize = FLASHMLA_QUANTIZE_KV_PARAMS_INIT;
    flashmla_dequantize_kv_params dequantize = FLASHMLA_DEQUANTIZE_KV_PARAMS_INIT;
    quantize.out = dequantize.kv_cache = cache;
    quantize.latent = &latent;
    dequantize.out = &out;
    quantize.kv_format = dequantize.kv_format = kv_format;
    CHECK_OK(flashmla_quantize_kv(&quantize));
    CHECK_OK(flashmla_dequantize_kv(&dequantize));
  }
  for (int64_t i = 0; i < count; ++i)
    for (int64_t d = 0; d < d_qk; ++d) rows[i][d] = load(&held[i * d_qk + d]);
}

/* An index that selects, or one that does not. */
static int64_t draw_index(int64_t slots, bool wide) {
  const int64_t outside[] = {-1, slots, INT32_MIN, INT32_MAX, wide ? INT64_MIN : -2, wide ? INT64_C(1) << 32 : slots};
  return draw(0, 3) > 0 ? draw(0, slots - 1) : outside[draw(0, 5)];
}

static int64_t clamp(int64_t value, int64_t high) { return value < 0 ? 0 : value > high ? high : value; }

typedef struct sums {
  double out[D_V], weight;
} sums;

static void add_key(sums *s, const uint16_t *q, const float *key, int64_t d_qk) {
  double x = 0;
  for (int64_t d = 0; d < d_qk; ++d) x += (double)load(&q[d]) * (double)key[d];
  const double weight = exp(x * 0.05f);
  s->weight += weight;
  for (int64_t d = 0; d < D_V; ++d) s->out[d] += weight * (double)key[d];
}

static selections s;
static float rows[KEYS][MOST_D_QK], extra_rows[EXTRA_KEYS][MOST_D_QK];

static void check_row(int64_t token, int64_t head) {
  const int64_t d_qk = s.shape[Q][3], request = token / S_Q;
  const uint16_t *q = (const uint16_t *)memory[Q] + (token * H_Q + head) * d_qk;
  const int64_t count = clamp(((const int32_t *)memory[LENGTHS])[request], TOPK);
  const int64_t extra =
      s.params.extra_kv_cache != NULL ? clamp(((const int32_t *)memory[EXTRA_LENGTHS])[request], EXTRA_TOPK) : 0;
  sums sum = {{0}, 0};
  for (int64_t i = 0; i < count; ++i) {
    const int32_t index = ((const int32_t *)memory[INDICES])[token * TOPK + i];
    if (index >= 0 && index < KEYS) add_key(&sum, q, rows[index], d_qk);
  }
  for (int64_t i = 0; i < extra; ++i) {
    const int64_t index = ((const int64_t *)memory[EXTRA_INDICES])[token * EXTRA_TOPK + i];
    if (index >= 0 && index < EXTRA_KEYS) add_key(&sum, q, extra_rows[index], d_qk);
  }
  const double lse = log(sum.weight), sink = ((const float *)memory[SINK])[head];
  const double share = 1 / (1 + exp(sink - lse));
  const float found = ((const float *)memory[LSE])[(request * H_Q + head) * S_Q + token % S_Q];
  CHECK(sum.weight > 0 ? fabs((double)found - lse) < 1e-4 : found == INFINITY);
  for (int64_t d = 0; d < D_V; ++d) {
    const double wanted = sum.weight > 0 ? sum.out[d] / sum.weight * share : 0;
    CHECK(fabs((double)load((const uint16_t *)memory[OUT] + (token * H_Q + head) * D_V + d) - wanted) < 1e-2);
  }
}

static void decode(int32_t kv_format, int32_t extra_format, uint32_t flags) {
  init(&s, kv_format, extra_format < 0 ? kv_format : extra_format);
  if (extra_format < 0) init_alone(&s, kv_format);
  s.params.flags = flags;
  s.params.num_threads = 2;
  const int64_t d_qk = s.shape[Q][3];
  fill_bf16(memory[Q], TOKENS * H_Q * d_qk);
  fill_cache(&s.tensor[KV], kv_format, rows, KEYS, d_qk);
  if (extra_format >= 0) fill_cache(&s.tensor[EXTRA_KV], extra_format, extra_rows, EXTRA_KEYS, d_qk);
  for (int i = 0; i < TOKENS * TOPK; ++i) ((int32_t *)memory[INDICES])[i] = (int32_t)draw_index(KEYS, false);
  for (int i = 0; i < TOKENS * EXTRA_TOPK; ++i) ((int64_t *)memory[EXTRA_INDICES])[i] = draw_index(EXTRA_KEYS, true);
  const int32_t lengths[] = {-5, 0, 1, 63, 64, 65, TOPK, INT32_MAX};
  for (int i = 0; i < BATCH; ++i) ((int32_t *)memory[LENGTHS])[i] = lengths[draw(0, 7)];
  for (int i = 0; i < BATCH; ++i) ((int32_t *)memory[EXTRA_LENGTHS])[i] = (int32_t)draw(-1, EXTRA_TOPK + 1);
  const float sinks[] = {-INFINITY, INFINITY, 0, 3, -1000};
  for (int i = 0; i < H_Q; ++i) ((float *)memory[SINK])[i] = sinks[draw(0, 4)];
  uint64_t bytes;
  CHECK_OK(flashmla_sparse_decode_workspace_size(&s.params, &bytes));
  CHECK(bytes <= sizeof scratch);
  s.params.workspace = bytes > 0 ? malloc(bytes) : NULL;
  s.params.workspace_size = bytes;
  memset(memory[OUT], 0xa5, ROOM);
  CHECK_OK(flashmla_sparse_decode(&s.params));
  CHECK(strcmp(flashmla_last_kernel(), "sparse_decode_bf16_cpu") == 0);
  free(s.params.workspace);
  for (int64_t token = 0; token < TOKENS; ++token)
    for (int64_t head = 0; head < H_Q; ++head) check_row(token, head);
}

int main(void) {
  for (int32_t format = FLASHMLA_KV_BF16; format <= FLASHMLA_KV_V41; ++format)
    for (int32_t extra = -1; extra <= FLASHMLA_KV_V41; ++extra) {
      const int32_t columns = flashmla_kv_columns(format), others = flashmla_kv_columns(extra);
      if (columns > 0 && others > 0 && columns != others) continue;
      for (uint32_t i = 0; i < 4; ++i) decode(format, extra, i % 2 == 0 ? 0 : FLASHMLA_BATCH_INVARIANT);
    }
  return 0;
}
