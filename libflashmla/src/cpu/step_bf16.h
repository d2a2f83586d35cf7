/* step_bf16.h - a step of attention for bfloat16 queries and keys, in products of pairs: one instruction adds
 * a.low * b.low + a.high * b.high to a float32 sum. Included by kernels_<set>.c behind elements_template.h, with 16
 * lanes, and constants
 *   KEYS_MANY_ROWS, KEYS_FEW_ROWS  keys of a step for more than FEW_ROWS rows, or for up to so many
 *   KEY_GROUP, VALUE_GROUP         keys that the set's products take together, in logits and in sums
 *   DOT_ROWS                       up to so many rows, queries stay as they are
 *   DIRECT_ROWS                    and values are interleaved in registers
 *   COPIES                         1: the set wants room for copies of keys
 * and
 *   EXP2(x)                        exp2_vector, or what does the same
 *   BF16_PAIRS(low, high)          two vectors of floats rounded to bfloat16, as the halves of a vector of pairs
 * The set then defines the products, `logits` and `accumulate`.
 *
 * Along the head dimension pairs lie side by side in queries and keys, so keys are used as they lie in the cache. Along
 * the tokens they do not: the values of a step are interleaved by two tokens, once for all query rows. Logits keep
 * query rows in the lanes, so the softmax is vertical; weights are transposed then, so that the pairs of a row lie side
 * by side. Weights are rounded to bfloat16, their sum is not. */

enum {
  D_PAIRS = FM_CPU_MOST_D_QK / 2,
  /* Elements between two rows of the buffers: addresses are constants whatever the extents. Where many rows of one
   * column are used together no stride is a large power of two, since those would evict each other from level 1. */
  KEY_STRIDE = FM_CPU_MOST_D_QK,
  LOGIT_STRIDE = FM_CPU_MOST_ROWS + LANES,
  WEIGHT_STRIDE = KEYS_MANY_ROWS / 2,
  SUM_STRIDE = FM_CPU_MOST_D_V + LANES,
  PANEL = 64 /* columns of values that lie together */
};
_Static_assert((int)KEYS_MANY_ROWS % KEY_GROUP + (int)KEYS_FEW_ROWS % KEY_GROUP == 0, "whole groups of keys");
_Static_assert((int)KEYS_MANY_ROWS % (2 * LANES) + (int)KEYS_FEW_ROWS % (2 * LANES) == 0, "whole blocks of weights");
_Static_assert((int)KEYS_MANY_ROWS <= FM_CPU_MOST_KEYS && (int)KEYS_FEW_ROWS <= (int)KEYS_MANY_ROWS && LANES == 16,
               "sizes of isa.h; less scratch for fewer rows");

typedef uint16_t bf16;
typedef uint32_t vu_unaligned __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
#define LOAD_PAIRS(p) ((vu)(*(const vu_unaligned *)(p)))
#define STORE_PAIRS(p, v) (*(vu *)(p) = (v))

/* ---- buffers ---- */

typedef struct buffers {
  int32_t d_qk, d_v, rows;
  int32_t panel;     /* elements of a panel of values */
  uint32_t *queries; /* [blocks of 16 rows][D_PAIRS][16 rows]; of up to DOT_ROWS rows [rows][D_PAIRS] */
  uint32_t *values;  /* [panels][keys of a step / 2][PANEL]: of 32 columns the even ones, then the odd ones */
  float *logits;     /* [keys of a step][LOGIT_STRIDE]: <q, k> */
  uint32_t *weights; /* [padded rows][WEIGHT_STRIDE]: pairs of tokens, followed by zeros up to a whole vector */
  float *sums;       /* [padded rows][SUM_STRIDE]: sum over tokens of weight * value, columns in the order of values */
  float *row_max;    /* [padded rows], as the next two: largest <q, k> so far */
  float *row_sum;    /* sum of weights relative to row_max */
  float *rescale;    /* factor that moves earlier sums to the new row_max */
  float *result;     /* [d_v] */
  bf16 *copies;      /* [keys of a step][KEY_STRIDE] */
  bf16 *zeros;       /* a key */
  int32_t *fresh;    /* nothing is attended yet, and sums hold nothing */
} buffers;

static int32_t padded_rows(int32_t rows) { return (rows + LANES - 1) / LANES * LANES; }

static int32_t keys_of_step(const fm_cpu_tile *tile) {
  return fm_cpu_tile_rows(tile) > FEW_ROWS ? KEYS_MANY_ROWS : KEYS_FEW_ROWS;
}

/* Takes bytes of the scratch, of which `taken` are in use; NULL: only counts. */
static void *take(char *scratch, size_t *taken, size_t bytes) {
  char *from = scratch == NULL ? NULL : scratch + *taken;
  *taken += (bytes + 63) / 64 * 64;
  return from;
}

static size_t lay_out(buffers *b, char *scratch, const fm_cpu_tile *tile) {
  const int32_t rows = fm_cpu_tile_rows(tile);
  const size_t padded = (size_t)padded_rows(rows), keys = (size_t)keys_of_step(tile);
  size_t taken = 0;
  *b = (buffers){.d_qk = tile->d_qk, .d_v = tile->d_v, .rows = rows, .panel = (int32_t)keys / 2 * PANEL};
  b->queries = take(scratch, &taken, padded * D_PAIRS * sizeof *b->queries);
  b->values = take(scratch, &taken, keys / 2 * FM_CPU_MOST_D_V * sizeof *b->values);
  b->logits = take(scratch, &taken, keys * LOGIT_STRIDE * sizeof *b->logits);
  b->weights = take(scratch, &taken, padded * WEIGHT_STRIDE * sizeof *b->weights);
  b->sums = take(scratch, &taken, padded * SUM_STRIDE * sizeof *b->sums);
  b->row_max = take(scratch, &taken, padded * sizeof *b->row_max);
  b->row_sum = take(scratch, &taken, padded * sizeof *b->row_sum);
  b->rescale = take(scratch, &taken, padded * sizeof *b->rescale);
  b->result = take(scratch, &taken, FM_CPU_MOST_D_V * sizeof *b->result);
  b->copies = take(scratch, &taken, COPIES * keys * KEY_STRIDE * sizeof *b->copies);
  b->zeros = take(scratch, &taken, KEY_STRIDE * sizeof *b->zeros);
  b->fresh = take(scratch, &taken, sizeof *b->fresh);
  return taken;
}

static buffers buffers_in(void *scratch, const fm_cpu_tile *tile) {
  buffers b;
  lay_out(&b, scratch, tile);
  return b;
}

static size_t scratch_bytes(const fm_cpu_tile *tile) {
  buffers b;
  return lay_out(&b, NULL, tile);
}

/* ---- keys to come ---- */

/* The keys of the next step are brought into the level-2 cache while these are worked on, some at a time. With few rows
 * memory sets the pace, and it should never rest; with many, packing takes a small part of the time. */
enum { PACKING, LOGITS, SUMS, PHASES };
typedef struct coming {
  const void *const *keys;
  int32_t bytes, next, until[PHASES];
} coming;

static coming coming_keys(const buffers *b, const void *const keys[], int32_t count) {
  const int32_t third = b->rows > FEW_ROWS || b->rows <= DIRECT_ROWS ? 0 : count / 3;
  return (coming){.keys = keys, .bytes = 2 * b->d_qk, .until = {third, (count + third) / 2, count}};
}

INLINE void fetch(const void *key, int32_t bytes) {
  for (int32_t i = 0; key != NULL && i < bytes; i += 64) __builtin_prefetch((const char *)key + i, 0, 2);
}

/* Those up to a part of a phase. */
INLINE void fetch_part(coming *coming, int phase, int64_t part, int64_t of) {
  const int32_t begin = phase == 0 ? 0 : coming->until[phase - 1], end = coming->until[phase];
  for (const int32_t until = begin + (int32_t)((end - begin) * (part < of ? part : of) / of); coming->next < until;
       coming->next++)
    fetch(coming->keys[coming->next], coming->bytes);
}

/* ---- what a set defines ---- */

/* Logits of all padded rows with `count` keys, a multiple of KEY_GROUP, none of which is NULL. */
static void logits(const buffers *b, const void *const keys[], int32_t count, coming *coming);
/* Adds weight * value over `tokens`, a multiple of VALUE_GROUP, to the sums of all rows, or sets the sums. */
static void accumulate(const buffers *b, int32_t tokens, bool set, coming *coming);
/* The same for up to DIRECT_ROWS rows, with the values where they lie. */
static void accumulate_direct(const buffers *b, const void *const keys[], int32_t tokens, bool set, coming *coming);

/* ---- queries ---- */

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector((a), (b), __VA_ARGS__)
#endif
#endif
#if !defined(SHUFFLE)
#define SHUFFLE(a, b, ...) __builtin_shuffle((a), (b), (vi){__VA_ARGS__})
#endif

/* 16 vectors of 16 elements. */
INLINE void transpose(vu m[LANES]) {
  vu n[LANES];
  for (int i = 0; i < LANES; i += 2) { /* pairs of rows, elements interleaved within 128 bits */
    n[i] = SHUFFLE(m[i], m[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    n[i + 1] = SHUFFLE(m[i], m[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  for (int i = 0; i < LANES; i += 4) { /* four rows: column 4 l + k of them in the 128 bits l of m[i + k] */
    for (int k = 0; k < 2; k++) {
      m[i + 2 * k] = SHUFFLE(n[i + k], n[i + k + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      m[i + 2 * k + 1] = SHUFFLE(n[i + k], n[i + k + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
  }
  for (int i = 0; i < LANES; i += 8) { /* eight rows: n[i + k] has columns k and k + 8, n[i + k + 4] the next four */
    for (int k = 0; k < 4; k++) {
      n[i + k] = SHUFFLE(m[i + k], m[i + k + 4], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
      n[i + k + 4] = SHUFFLE(m[i + k], m[i + k + 4], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
  }
  for (int k = 0; k < 8; k++) {
    m[k] = SHUFFLE(n[k], n[k + 8], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    m[k + 8] = SHUFFLE(n[k], n[k + 8], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  }
}

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

static void pack_values(const buffers *b, const void *const keys[], int32_t tokens, coming *coming) {
  for (int32_t t = 0; t < tokens; t += 2) {
    const bf16 *low = keys[t], *high = keys[t + 1];
    fetch_part(coming, PACKING, t, tokens);
    if (*b->fresh && t + 8 < tokens) { /* no step before this one has fetched them */
      fetch(keys[t + 7], 2 * b->d_qk);
      fetch(keys[t + 8], 2 * b->d_qk);
    }
    uint32_t *to = b->values + t / 2 * PANEL;
    for (int32_t c = 0; c < b->d_v; c += PANEL, to += b->panel) {
      for (int32_t half = 0; half < PANEL; half += 2 * LANES) {
        vu pairs[2];
        interleave(pairs, low + c + half, high + c + half);
        STORE_PAIRS(to + half, pairs[0]);
        STORE_PAIRS(to + half + LANES, pairs[1]);
      }
    }
  }
}

/* Where a column lies among the values of a pair, panel by panel, and in a row of sums. */
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
 * of the products, */
static void drop_others(const buffers *b, const bf16 *key, int32_t token) {
  if (all_finite(key, b->d_v)) return;
  for (int32_t c = 0; c < b->d_v; c++) {
    if (is_finite(key[c])) continue;
    const int32_t place = place_of(c);
    uint32_t *pair = b->values + place / PANEL * b->panel + token / 2 * PANEL + place % PANEL;
    *pair &= token % 2 == 0 ? 0xffff0000 : 0xffff;
  }
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

static void attend(void *scratch, const fm_cpu_tile *tile, const void *const keys[], int32_t count, int32_t more,
                   const int32_t attended[]) {
  const buffers b = buffers_in(scratch, tile);
  const int32_t in_logits = (count + KEY_GROUP - 1) / KEY_GROUP * KEY_GROUP,
                in_sums = (count + VALUE_GROUP - 1) / VALUE_GROUP * VALUE_GROUP;
  const void *rows[FM_CPU_MOST_KEYS];
  for (int32_t t = 0; t < in_logits || t < in_sums; t++) rows[t] = t < count && keys[t] != NULL ? keys[t] : b.zeros;
  coming coming = coming_keys(&b, keys + count, more);

  const bool direct = b.rows <= DIRECT_ROWS && attended == NULL;
  if (!direct) pack_values(&b, rows, in_sums, &coming);
  logits(&b, rows, in_logits, &coming);
  int32_t by_all = count; /* tokens that all rows attend */
  for (int32_t s = 0; attended != NULL && s < tile->tokens; s++) {
    if (attended[s] < by_all) by_all = attended[s];
    for (int32_t t = attended[s]; t < count; t++)
      for (int32_t h = 0; h < tile->heads; h++) b.logits[t * LOGIT_STRIDE + s * tile->heads + h] = -INFINITY;
  }
  for (int32_t row = 0; row < b.rows; row += LANES) softmax(&b, row, count, tile->scale_log2);
  if (!*b.fresh) rescale_sums(&b);
  for (int32_t t = by_all; t < count; t++) drop_others(&b, rows[t], t);
  if (direct)
    accumulate_direct(&b, rows, in_sums, *b.fresh, &coming);
  else
    accumulate(&b, in_sums, *b.fresh, &coming);
  for (int32_t t = by_all; t < count; t++)
    for (int32_t s = 0; s < tile->tokens; s++)
      if (attended[s] > t) add_others(&b, rows[t], t, s * tile->heads, tile->heads);
  *b.fresh = false;
}

static fm_cpu_row_sums finish(void *scratch, const fm_cpu_tile *tile, int32_t row) {
  const buffers b = buffers_in(scratch, tile);
  const float *sums = b.sums + row * SUM_STRIDE;
  for (int32_t c = 0; c < b.d_v; c += 2 * LANES) {
    for (int32_t i = 0; i < LANES; i++) {
      b.result[c + 2 * i] = sums[c + i];
      b.result[c + 2 * i + 1] = sums[c + LANES + i];
    }
  }
  return (fm_cpu_row_sums){b.result, b.row_max[row], b.row_sum[row]};
}

const fm_cpu_step NAME(step) = {
    .q_dtypes = FM_ONLY(FM_BF16),
    .cache_dtypes = FM_ONLY(FM_BF16),
    .flop_per_thread = 5 << 19, /* 4 of them: 55 us in AVX-512 BF16 */
    .keys_ahead = KEYS_MANY_ROWS,
    .scratch_bytes = scratch_bytes,
    .keys = keys_of_step,
    .set_queries = set_queries,
    .begin = begin,
    .attend = attend,
    .finish = finish,
};
