/* step_bf16.h - a step of attention for bfloat16 queries and keys, in products of pairs: one instruction adds
 * a.low * b.low + a.high * b.high to a float32 sum. Included by kernels_<set>.c behind elements_template.h, with 16
 * lanes, and constants
 *   KEYS_MANY_ROWS, KEYS_FEW_ROWS  keys of a step for more than FEW_ROWS rows, or for up to so many
 *   KEY_GROUP, VALUE_GROUP         keys that the set's products take together, in logits and in sums
 *   DOT_ROWS                       up to so many rows, queries stay as they are
 *   DIRECT_ROWS                    and values are not interleaved in memory
 *   COLUMNS                        of values that are interleaved at a time, which should stay in the level-1 cache
 *   FLOP_PER_THREAD                see isa.h
 *   COPIES                         1: the set wants room for copies of keys
 * and
 *   EXP2(x)                        exp2_vector, or what does the same
 *   BF16_PAIRS(low, high)          two vectors of floats rounded to bfloat16, as the halves of a vector of pairs
 * The set then defines the products, `logits` and `accumulate`.
 *
 * Along the head dimension pairs lie side by side in queries and keys, so keys are used as they lie in the cache. Along
 * the tokens they do not: the values of a step are interleaved by two tokens, once for all query rows, unless there are
 * few of these. Logits keep query rows in the lanes, so the softmax is vertical; weights are transposed then, so that
 * the pairs of a row lie side by side. Weights are rounded to bfloat16, their sum is not. */

#include "cpu/buffers_bf16.h"
#include "cpu/keys_bf16.h"
#include "cpu/transpose.h"

/* ---- what a set defines ---- */

/* Logits of all padded rows with in_logits keys. */
static void logits(const buffers *b, key_set *keys);
/* Adds weight * value over in_sums tokens to the sums of all rows, or sets the sums. */
static void accumulate(const buffers *b, key_set *keys, bool set);
/* The same for up to DIRECT_ROWS rows, with the values where they lie, of keys that allow it: for a row that does not
 * attend one its value must be finite. */
static bool takes_direct(const buffers *b, const key_set *keys);
static void accumulate_direct(const buffers *b, key_set *keys, bool set);

/* ---- queries ---- */

static void set_queries(void *scratch, const fm_cpu_tile *tile, const void *const queries[]) {
  const buffers b = buffers_in(scratch, tile);
  memset(b.zeros, 0, KEY_STRIDE * sizeof *b.zeros);
  if (b.rows <= DOT_ROWS) {
    for (int32_t row = 0; row < b.rows; row++)
      memcpy(b.queries + row * D_PAIRS, queries[row], sizeof(bf16) * (size_t)b.d_qk);
    return;
  }
  for (int32_t first = 0; first < b.rows; first += LANES) {
    uint32_t *block = b.queries + first * D_PAIRS;
    for (int32_t d = 0; d < b.d_qk; d += 2 * LANES) {
      vu pairs[LANES];
      for (int32_t r = 0; r < LANES; r++)
        pairs[r] = first + r < b.rows ? LOAD_PAIRS((const bf16 *)queries[first + r] + d) : (vu){0};
      transpose(pairs);
      for (int32_t i = 0; i < LANES; i++) STORE_PAIRS(block + (d / 2 + i) * LANES, pairs[i]);
    }
  }
}

/* ---- values ---- */

/* The even and the odd ones of 32 columns of two tokens, as pairs. */
INLINE void interleave(vu to[2], const bf16 *low, const bf16 *high) {
  const vu x = LOAD_PAIRS(low), y = LOAD_PAIRS(high);
  to[0] = (x & 0xffff) | (y << 16);
  to[1] = (x >> 16) | (y & 0xffff0000);
}

/* Where a column lies in a row of sums, and within its panel among the values of a pair. */
static int32_t place_of(int32_t column) { return column / 32 * 32 + column % 2 * 16 + column % 32 / 2; }

static bool is_finite(bf16 x) { return (x & 0x7f80) != 0x7f80; }

static float float_of(bf16 x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static bool all_finite(const bf16 *values, int32_t count) {
  int32_t others = 0;
  for (int32_t i = 0; i < count; i++) others += !is_finite(values[i]);
  return others == 0;
}

/* Rows that do not attend a token have weight 0 for it, which would not do for these values: 0 * NaN. Takes them out
 * of a panel of values, */
static void drop_others(uint32_t *values, const bf16 *key, int32_t token) {
  if (all_finite(key, PANEL)) return;
  for (int32_t c = 0; c < PANEL; c++)
    if (!is_finite(key[c])) values[token / 2 * PANEL + place_of(c)] &= token % 2 == 0 ? 0xffff0000 : 0xffff;
}

/* and adds them to the sums of rows that do attend it. */
static void add_others(const buffers *b, const bf16 *key, int32_t token, int32_t first, int32_t rows) {
  if (all_finite(key, b->d_v)) return;
  for (int32_t row = first; row < first + rows; row++) {
    const uint32_t pair = b->weights[row * WEIGHT_STRIDE + token / 2];
    const float weight = float_of((bf16)(token % 2 == 0 ? pair : pair >> 16));
    for (int32_t c = 0; c < b->d_v; c++)
      if (!is_finite(key[c])) b->sums[row * SUM_STRIDE + place_of(c)] += weight * float_of(key[c]);
  }
}

/* A panel of values, from a column on. */
static void pack_values(uint32_t *values, key_set *keys, int32_t column) {
  for (int32_t t = 0; t < keys->in_sums; t += 2) {
    fetch_lines(keys);
    const bf16 *low = (const bf16 *)keys->rows[t] + column, *high = (const bf16 *)keys->rows[t + 1] + column;
    for (int32_t c = 0; c < PANEL; c += 2 * LANES) {
      vu pairs[2];
      interleave(pairs, low + c, high + c);
      STORE_PAIRS(values + t / 2 * PANEL + c, pairs[0]);
      STORE_PAIRS(values + t / 2 * PANEL + c + LANES, pairs[1]);
    }
  }
  for (int32_t t = keys->by_all; t < keys->count; t++) drop_others(values, (const bf16 *)keys->rows[t] + column, t);
}

/* ---- softmax ---- */

INLINE vf weights_of(const float *logits, vf base, float scale_log2) {
  return EXP2((LOAD(logits) - base) * scale_log2);
}

/* Of 16 rows. The sums are not rescaled here. */
static void softmax(const buffers *b, int32_t row, int32_t tokens, float scale_log2) {
  const float *column = b->logits + row;
  const vf before = LOAD(b->row_max + row);
  vf largest[4] = {before, before, before, before}; /* independent chains */
  int32_t t = 0;
  for (; t + 4 <= tokens; t += 4)
    for (int i = 0; i < 4; i++) largest[i] = VF_MAX(LOAD(column + (t + i) * LOGIT_STRIDE), largest[i]);
  for (; t < tokens; t++) largest[0] = VF_MAX(LOAD(column + t * LOGIT_STRIDE), largest[0]);
  const vf now = VF_MAX(VF_MAX(largest[0], largest[1]), VF_MAX(largest[2], largest[3]));
  /* A row that has attended nothing yet keeps weight 0 = 2^(-inf - 0), not NaN = 2^(-inf + inf). */
  const vf base = (vf)((vi)now & ~(now == -INFINITY));
  vf sum[2] = {{0}, {0}};
  for (t = 0; t < tokens; t += 2 * LANES) {
    vu pairs[LANES];
    for (int i = 0; i < LANES; i++) {
      const float *logits = column + (t + 2 * i) * LOGIT_STRIDE;
      vf weight[2] = {{0}, {0}};
      if (t + 2 * i < tokens) weight[0] = weights_of(logits, base, scale_log2);
      if (t + 2 * i + 1 < tokens) weight[1] = weights_of(logits + LOGIT_STRIDE, base, scale_log2);
      for (int k = 0; k < 2; k++) sum[k] += weight[k];
      pairs[i] = BF16_PAIRS(weight[0], weight[1]);
    }
    transpose(pairs);
    for (int i = 0; i < LANES; i++) STORE_PAIRS(b->weights + (row + i) * WEIGHT_STRIDE + t / 2, pairs[i]);
  }
  const vf rescale = EXP2((before - base) * scale_log2);
  STORE(b->row_max + row, now);
  STORE(b->rescale + row, rescale);
  STORE(b->row_sum + row, VF_FMA(LOAD(b->row_sum + row), rescale, sum[0] + sum[1]));
}

/* Most steps find no larger logit for a row. */
static void rescale_sums(const buffers *b) {
  for (int32_t row = 0; row < b->rows; row++) {
    const float factor = b->rescale[row];
    if (factor == 1) continue;
    for (int32_t c = 0; c < b->d_v; c += LANES) {
      float *sums = b->sums + row * SUM_STRIDE + c;
      STORE(sums, LOAD(sums) * factor);
    }
  }
}

/* ---- the step ---- */

static void begin(void *scratch, const fm_cpu_tile *tile) {
  const buffers b = buffers_in(scratch, tile);
  const int32_t padded = padded_rows(b.rows);
  *b.fresh = true;
  memset(b.row_sum, 0, sizeof(float) * (size_t)padded);
  for (int32_t row = 0; row < padded; row++) b.row_max[row] = -INFINITY;
  for (int32_t t = 0; b.rows <= DOT_ROWS && t < keys_of_step(tile); t++)
    STORE(b.logits + t * LOGIT_STRIDE, (vf){0}); /* logits writes `rows` of these */
}

static void attend(void *scratch, const fm_cpu_tile *tile, const void *const given[], int32_t count, int32_t more,
                   const int32_t attended[]) {
  const buffers b = buffers_in(scratch, tile);
  const int32_t next = keys_of_step(tile); /* more would be fetched again */
  key_set keys = key_set_of(&b, b.keys, given, count, more < next ? more : next);
  logits(&b, &keys);
  for (int32_t s = 0; attended != NULL && s < tile->tokens; s++) {
    if (attended[s] < keys.by_all) keys.by_all = attended[s];
    for (int32_t t = attended[s]; t < count; t++)
      for (int32_t h = 0; h < tile->heads; h++) b.logits[t * LOGIT_STRIDE + s * tile->heads + h] = -INFINITY;
  }
  for (int32_t row = 0; row < b.rows; row += LANES) softmax(&b, row, count, tile->scale_log2);
  if (!*b.fresh) rescale_sums(&b);
  if (b.rows <= DIRECT_ROWS && takes_direct(&b, &keys))
    accumulate_direct(&b, &keys, *b.fresh);
  else
    accumulate(&b, &keys, *b.fresh);
  for (int32_t t = keys.by_all; t < count; t++)
    for (int32_t s = 0; s < tile->tokens; s++)
      if (attended[s] > t) add_others(&b, b.keys[t], t, s * tile->heads, tile->heads);
  *b.fresh = false;
}

static fm_cpu_row_sums finish(void *scratch, const fm_cpu_tile *tile, int32_t row) {
  const buffers b = buffers_in(scratch, tile);
  const float *sums = b.sums + row * SUM_STRIDE;
  for (int32_t c = 0; c < b.d_v; c += 2 * LANES) {
    const vf even = LOAD(sums + c), odd = LOAD(sums + c + LANES);
    STORE(b.result + c, SHUFFLE(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    STORE(b.result + c + LANES, SHUFFLE(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
  }
  return (fm_cpu_row_sums){b.result, b.row_max[row], b.row_sum[row]};
}

const fm_cpu_step NAME(step) = {
    .q_dtypes = FM_ONLY(FM_BF16),
    .cache_dtypes = FM_ONLY(FM_BF16),
    .most_d_qk = FM_CPU_USUAL_D_QK,
    .most_d_v = FM_CPU_USUAL_D_V,
    .flop_per_thread = FLOP_PER_THREAD,
    .keys_ahead = KEYS_MANY_ROWS,
    .scratch_bytes = scratch_bytes,
    .keys = keys_of_step,
    .set_queries = set_queries,
    .begin = begin,
    .attend = attend,
    .finish = finish,
};
