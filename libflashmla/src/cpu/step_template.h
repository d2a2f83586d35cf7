/* step_template.h - a step of attention in float32, written once over a vector type. Included by kernels_<set>.c behind
 * elements_template.h, with what that needs and
 *   TILE_TOKENS     x TILE_VECTORS: tokens and vectors of rows in the register tile of logits. It divides 6, because
 *   TILE_VECTORS    panels with fewer vectors take twice the tokens and steps have multiples of 12
 *   SUM_ROWS        x SUM_VECTORS: rows and vectors of value columns in the register tile of accumulate
 *   SUM_VECTORS
 *   VF_SUM(a)       sum of the lanes
 *   WIDE            defined: with room for all head sizes, else for the usual ones
 *
 * Keys are widened to float32 once for all rows of the tile. Logits keep rows in the lanes: a packed query vector is
 * multiplied by one broadcast key element. So keys are used as they lie in the cache, both as K and as V, the softmax
 * over tokens is vertical, and nothing but the queries is transposed, once for a tile. With so few rows that most lanes
 * would be padding, lanes run along the head dimension. Row counts are rounded up to whole vectors; what the padding
 * holds is computed on too, so it is made of zeros.
 */

enum {
/* Floats between two rows of the buffers. Smaller tiles leave the rest of a row unused, so addresses are constants
 * whatever the extents. */
#if defined(WIDE)
  KEY_STRIDE = FM_CPU_MOST_D_QK,     /* keys and queries */
  SUM_STRIDE = FM_CPU_MOST_D_V + 16, /* no multiple of 4 KiB */
#else
  KEY_STRIDE = FM_CPU_USUAL_D_QK,
  SUM_STRIDE = FM_CPU_USUAL_D_V,
#endif
  /* Of a token's weights: room for all rows, and not a multiple of 4 KiB / 12 ways, which would make the lines of one
   * column of the buffer evict each other from a level-1 cache. */
  WEIGHT_STRIDE = FM_CPU_MOST_ROWS + 16,
  MANY_ROWS = 32, /* more rows use the keys of a step so often that they may lie in level 2 */
  /* Keys of a step, multiples of 12 (see logits): with 128 query rows all fits 1 MB of level 2. */
  KEYS_MANY_ROWS = 72,
  KEYS_FEW_ROWS = 12, /* and the keys alone fit level 1 */
  KEYS_AHEAD = 6,     /* 7 KB in 16-bit types */
  /* Head dimensions that a register tile sums before it adds them up: a panel of queries of this depth stays in the
   * level-1 cache while the keys pass by, and the rounding errors of shorter sums are smaller. */
  TILE_DEPTH = 144
};
_Static_assert(KEYS_MANY_ROWS % (2 * TILE_TOKENS) + KEYS_FEW_ROWS % (2 * TILE_TOKENS) == 0, "whole tiles of logits");
_Static_assert((int)KEYS_MANY_ROWS <= FM_CPU_MOST_KEYS && 64 % (SUM_VECTORS * LANES) == 0, "keys and sizes of isa.h");

/* ---- buffers ---- */

typedef struct buffers {
  int32_t d_qk, d_v;
  float *queries; /* packed: [padded rows][KEY_STRIDE] in some order */
  float *keys;    /* [tokens][KEY_STRIDE]; values are the first d_v columns */
  float *weights; /* [tokens][WEIGHT_STRIDE]: logits <q, k>, then exp of them, row by row in the columns */
  float *sums;    /* [padded rows][SUM_STRIDE]: sum over tokens of weight * value */
  float *row_max; /* [padded rows], as the next two: largest <q, k> so far */
  float *row_sum; /* sum of weights relative to row_max */
  float *rescale; /* factor that moves earlier sums to the new row_max */
} buffers;

static int32_t padded_rows(int32_t rows) { return (rows + LANES - 1) / LANES * LANES; }

static int32_t keys_of_step(const fm_cpu_tile *tile) {
  return fm_cpu_tile_rows(tile) > MANY_ROWS ? KEYS_MANY_ROWS : KEYS_FEW_ROWS;
}

static buffers buffers_in(void *scratch, const fm_cpu_tile *tile) {
  const int32_t padded = (fm_cpu_tile_rows(tile) + 15) / 16 * 16; /* floats of 64 bytes */
  buffers b = {.d_qk = tile->d_qk, .d_v = tile->d_v, .queries = scratch};
  b.keys = b.queries + padded * KEY_STRIDE;
  b.weights = b.keys + keys_of_step(tile) * KEY_STRIDE;
  b.sums = b.weights + keys_of_step(tile) * WEIGHT_STRIDE;
  b.row_max = b.sums + padded * SUM_STRIDE;
  b.row_sum = b.row_max + padded;
  b.rescale = b.row_sum + padded;
  return b;
}

static size_t scratch_bytes(const fm_cpu_tile *tile) {
  const size_t padded = (size_t)(fm_cpu_tile_rows(tile) + 15) / 16 * 16, keys = (size_t)keys_of_step(tile);
  return sizeof(float) * (padded * (KEY_STRIDE + SUM_STRIDE + 3) + keys * (KEY_STRIDE + WEIGHT_STRIDE));
}

/* ---- queries ---- */

/* Both layouts cost rows * d_qk / LANES multiplications a token when the lanes are full; along the head
 * dimension none is wasted, but the lanes must be summed at the end. */
INLINE int few_rows(int32_t rows) { return rows <= LANES / 2; }

/* Vectors of rows in the panel that begins at vector `v` of `vectors`: TILE_VECTORS, then halves of it. */
INLINE int32_t panel_vectors(int32_t v, int32_t vectors) {
  int32_t width = TILE_VECTORS;
  while (width > vectors - v) width /= 2;
  return width;
}

static void pack_query(const buffers *b, const float *query, int32_t row, int32_t rows) {
  if (few_rows(rows)) {
    memcpy(b->queries + row * KEY_STRIDE, query, sizeof(float) * (size_t)b->d_qk);
    return;
  }
  const int32_t vectors = (rows + LANES - 1) / LANES;
  int32_t v = 0;
  while (row / LANES >= v + panel_vectors(v, vectors)) v += panel_vectors(v, vectors);
  const int32_t width = panel_vectors(v, vectors) * LANES;
  float *column = b->queries + v * LANES * KEY_STRIDE + (row - v * LANES);
  for (int32_t d = 0; d < b->d_qk; d++) column[d * width] = query[d];
}

static void set_queries(void *scratch, const fm_cpu_tile *tile, const void *const queries[]) {
  const buffers b = buffers_in(scratch, tile);
  const int32_t rows = fm_cpu_tile_rows(tile);
  memset(b.queries, 0, sizeof(float) * KEY_STRIDE * (size_t)padded_rows(rows));
  for (int32_t row = 0; row < rows; row++) {
    /* The buffer of keys is not in use yet. */
    NAME(elements).widen[tile->q_dtype](b.keys, queries[row], tile->d_qk);
    pack_query(&b, b.keys, row, rows);
  }
}

/* ---- logits ---- */

/* Where a row is NULL, zeros. */
static void load_keys(const buffers *b, const fm_cpu_tile *tile, const void *const keys[], int32_t count,
                      int32_t more) {
  const int32_t bytes = tile->d_qk * fm_dtype_bytes(tile->cache_dtype);
  for (int32_t t = 0; t < count; t++) {
    const char *soon = t + KEYS_AHEAD < count + more ? keys[t + KEYS_AHEAD] : NULL;
    for (int32_t i = 0; soon != NULL && i < bytes; i += 64) __builtin_prefetch(soon + i, 0, 3);
    float *row = b->keys + t * KEY_STRIDE;
    if (keys[t] == NULL)
      memset(row, 0, sizeof(float) * (size_t)tile->d_qk);
    else
      NAME(elements).widen[tile->cache_dtype](row, keys[t], tile->d_qk);
  }
}

/* Adds the products of head dimensions [depth, end) to the weights; the first stretch sets them. */
INLINE void logits_tile(float *weights, const float *keys, const float *queries, int32_t depth, int32_t end,
                        const int tokens, const int vectors) {
  vf sum[2 * TILE_TOKENS][TILE_VECTORS];
  for (int t = 0; t < tokens; t++)
    for (int v = 0; v < vectors; v++) sum[t][v] = (vf){0};
  keys += depth;
  queries += depth * vectors * LANES;
  for (int32_t d = 0; d < end - depth; d++, queries += vectors * LANES) {
    vf query[TILE_VECTORS];
    for (int v = 0; v < vectors; v++) query[v] = LOAD(queries + v * LANES);
    for (int t = 0; t < tokens; t++) {
      vf key = SPLAT(keys[t * KEY_STRIDE + d]);
      for (int v = 0; v < vectors; v++) sum[t][v] = VF_FMA(key, query[v], sum[t][v]);
    }
  }
  for (int t = 0; t < tokens; t++) {
    for (int v = 0; v < vectors; v++) {
      float *weight = weights + t * WEIGHT_STRIDE + v * LANES;
      STORE(weight, (depth == 0 ? (vf){0} : LOAD(weight)) + sum[t][v]);
    }
  }
}

/* One row with TILE_TOKENS tokens, lanes along the head dimension. */
INLINE void logits_dot(float *weights, const float *keys, const float *query, int32_t d_qk) {
  vf sum[TILE_TOKENS];
  for (int t = 0; t < TILE_TOKENS; t++) sum[t] = (vf){0};
  for (int32_t d = 0; d < d_qk; d += LANES) {
    vf part = LOAD(query + d);
    for (int t = 0; t < TILE_TOKENS; t++) sum[t] = VF_FMA(part, LOAD(keys + t * KEY_STRIDE + d), sum[t]);
  }
  for (int t = 0; t < TILE_TOKENS; t++) weights[t * WEIGHT_STRIDE] = VF_SUM(sum[t]);
}

static void logits_many_rows(const buffers *b, int32_t vectors, int32_t tokens) {
  for (int32_t v = 0, width; v < vectors; v += width) {
    const float *queries = b->queries + v * LANES * KEY_STRIDE;
    width = panel_vectors(v, vectors);
    for (int32_t depth = 0, end; depth < b->d_qk; depth = end) {
      end = depth + TILE_DEPTH < b->d_qk ? depth + TILE_DEPTH : b->d_qk;
      for (int32_t t = 0, step; t < tokens; t += step) {
        const float *keys = b->keys + t * KEY_STRIDE;
        float *weights = b->weights + t * WEIGHT_STRIDE + v * LANES;
        step = width == TILE_VECTORS ? TILE_TOKENS : 2 * TILE_TOKENS;
        if (width == TILE_VECTORS)
          logits_tile(weights, keys, queries, depth, end, TILE_TOKENS, TILE_VECTORS);
        else if (width == 2)
          logits_tile(weights, keys, queries, depth, end, 2 * TILE_TOKENS, TILE_VECTORS < 2 ? TILE_VECTORS : 2);
        else
          logits_tile(weights, keys, queries, depth, end, 2 * TILE_TOKENS, 1);
      }
    }
  }
}

static void logits(const buffers *b, int32_t rows, int32_t tokens) {
  const int32_t padded = (tokens + 2 * TILE_TOKENS - 1) / (2 * TILE_TOKENS) * (2 * TILE_TOKENS);
  memset(b->keys + tokens * KEY_STRIDE, 0, sizeof(float) * KEY_STRIDE * (size_t)(padded - tokens));
  if (!few_rows(rows)) {
    logits_many_rows(b, (rows + LANES - 1) / LANES, padded);
    return;
  }
  for (int32_t t = 0; t < padded; t += TILE_TOKENS)
    for (int32_t row = 0; row < rows; row++)
      logits_dot(b->weights + t * WEIGHT_STRIDE + row, b->keys + t * KEY_STRIDE, b->queries + row * KEY_STRIDE,
                 b->d_qk);
}

/* ---- softmax ---- */

static void softmax(const buffers *b, int32_t rows, int32_t tokens, float scale_log2) {
  for (int32_t r = 0; r < rows; r += LANES) {
    float *column = b->weights + r;
    const vf before = LOAD(b->row_max + r);
    vf now = before;
    for (int32_t t = 0; t < tokens; t++) now = VF_MAX(LOAD(column + t * WEIGHT_STRIDE), now);
    /* A row that has attended nothing yet keeps weight 0 = 2^(-inf - 0), not NaN = 2^(-inf + inf). */
    const vf base = (vf)((vi)now & ~(now == -INFINITY));
    vf sum = (vf){0};
    for (int32_t t = 0; t < tokens; t++) {
      float *weight = column + t * WEIGHT_STRIDE;
      const vf w = exp2_vector((LOAD(weight) - base) * scale_log2);
      STORE(weight, w);
      sum += w;
    }
    const vf rescale = exp2_vector((before - base) * scale_log2);
    STORE(b->row_max + r, now);
    STORE(b->rescale + r, rescale);
    STORE(b->row_sum + r, VF_FMA(LOAD(b->row_sum + r), rescale, sum));
  }
}

/* ---- weighted sum of values ---- */

INLINE void accumulate_tile(float *sums, const float *weights, const float *values, const float *rescale,
                            int32_t tokens, const int rows) {
  vf sum[SUM_ROWS][SUM_VECTORS];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < SUM_VECTORS; v++) sum[r][v] = LOAD(sums + r * SUM_STRIDE + v * LANES) * rescale[r];
  for (int32_t t = 0; t < tokens; t++, weights += WEIGHT_STRIDE, values += KEY_STRIDE) {
    vf value[SUM_VECTORS];
    for (int v = 0; v < SUM_VECTORS; v++) value[v] = LOAD(values + v * LANES);
    for (int r = 0; r < rows; r++) {
      vf weight = SPLAT(weights[r]);
      for (int v = 0; v < SUM_VECTORS; v++) sum[r][v] = VF_FMA(weight, value[v], sum[r][v]);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < SUM_VECTORS; v++) STORE(sums + r * SUM_STRIDE + v * LANES, sum[r][v]);
}

static void accumulate(const buffers *b, int32_t row, int32_t rows, int32_t tokens) {
  for (int32_t c = 0; c < b->d_v; c += SUM_VECTORS * LANES) {
    const float *values = b->keys + c;
    for (int32_t r = row, rest = rows, step; rest > 0; r += step, rest -= step) {
      float *sums = b->sums + r * SUM_STRIDE + c;
      const float *weights = b->weights + r, *rescale = b->rescale + r;
      step = rest >= SUM_ROWS ? SUM_ROWS : rest >= 4 ? 4 : rest >= 2 ? 2 : 1;
      if (step == SUM_ROWS)
        accumulate_tile(sums, weights, values, rescale, tokens, SUM_ROWS);
      else if (step == 4)
        accumulate_tile(sums, weights, values, rescale, tokens, SUM_ROWS < 4 ? SUM_ROWS : 4);
      else if (step == 2)
        accumulate_tile(sums, weights, values, rescale, tokens, 2);
      else
        accumulate_tile(sums, weights, values, rescale, tokens, 1);
    }
  }
}

/* ---- the step ---- */

static void begin(void *scratch, const fm_cpu_tile *tile) {
  const buffers b = buffers_in(scratch, tile);
  const int32_t rows = fm_cpu_tile_rows(tile), padded = padded_rows(rows);
  memset(b.sums, 0, sizeof(float) * SUM_STRIDE * (size_t)padded);
  memset(b.row_sum, 0, sizeof(float) * (size_t)padded);
  for (int32_t row = 0; row < padded; row++) b.row_max[row] = -INFINITY;
  if (!few_rows(rows)) return; /* logits writes whole vectors */
  for (int32_t t = 0; t < keys_of_step(tile); t++)
    STORE(b.weights + t * WEIGHT_STRIDE, (vf){0}); /* logits writes `rows` of these */
}

static void attend(void *scratch, const fm_cpu_tile *tile, const void *const keys[], int32_t count, int32_t more,
                   const int32_t attended[]) {
  const buffers b = buffers_in(scratch, tile);
  const int32_t rows = fm_cpu_tile_rows(tile), heads = tile->heads;
  load_keys(&b, tile, keys, count, more);
  logits(&b, rows, count);
  for (int32_t s = 0; attended != NULL && s < tile->tokens; s++)
    for (int32_t t = attended[s]; t < count; t++)
      for (int32_t h = 0; h < heads; h++) b.weights[t * WEIGHT_STRIDE + s * heads + h] = -INFINITY;
  softmax(&b, rows, count, tile->scale_log2);
  if (attended == NULL) accumulate(&b, 0, rows, count);
  /* A weight of 0 would not do: 0 * NaN. */
  for (int32_t s = 0; attended != NULL && s < tile->tokens; s++)
    if (attended[s] > 0) accumulate(&b, s * heads, heads, attended[s]);
}

static fm_cpu_row_sums finish(void *scratch, const fm_cpu_tile *tile, int32_t row) {
  const buffers b = buffers_in(scratch, tile);
  return (fm_cpu_row_sums){b.sums + row * SUM_STRIDE, b.row_max[row], b.row_sum[row]};
}

const fm_cpu_step NAME(step) = {
    .q_dtypes = FM_ANY_FLOAT,
    .cache_dtypes = FM_ANY_FLOAT,
    .most_d_qk = KEY_STRIDE,
    .most_d_v = SUM_STRIDE,
    .flop_per_thread = 1 << 20, /* 4 of them: 50 us in AVX2 and AVX-512 */
    .scratch_bytes = scratch_bytes,
    .keys = keys_of_step,
    .keys_ahead = KEYS_AHEAD,
    .set_queries = set_queries,
    .begin = begin,
    .attend = attend,
    .finish = finish,
};
