/* kernels_template.h - the micro-kernels, written once over a vector type. Included by kernels_<isa>.c, which defines
 *   KERNELS, ISA    the table to define and its name
 *   LANES           floats in a vector
 *   TILE_TOKENS     x TILE_VECTORS: tokens and vectors of rows in the register tile of logits. It divides 6, because
 *   TILE_VECTORS    panels with fewer vectors take twice the tokens and steps have multiples of 12
 *   SUM_ROWS        x SUM_VECTORS: rows and vectors of value columns in the register tile of accumulate
 *   SUM_VECTORS
 *   VF_FMA(a, b, c) a * b + c
 *   VF_MAX(a, b)    a > b ? a : b, so b where one of them is NaN
 *   VF_SUM(a)       sum of the lanes
 *   VU_OF_U16(from) LANES 16-bit integers as 32-bit ones
 *   widen_fp16(to, from), narrow_fp16(to, vector): LANES elements
 *
 * Logits keep rows in the lanes: a packed query vector is multiplied by one broadcast key element. So keys are used as
 * they lie in the cache, both as K and as V, the softmax over tokens is vertical, and nothing but the queries is
 * transposed, once for a tile. With so few rows that most lanes would be padding, lanes run along the head dimension.
 */

typedef float vf __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), may_alias));
typedef float vf_unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

/* Head dimensions that a register tile sums before it adds them up: a panel of queries of this depth stays in the
 * level-1 cache while the keys pass by, and the rounding errors of shorter sums are smaller. */
enum { TILE_DEPTH = 144 };

#define INLINE static inline __attribute__((always_inline))
#define SPLAT(x) ((x) - (vf){0})
#define LOAD(p) (*(const vf *)(p))
#define STORE(p, v) (*(vf *)(p) = (v))

/* ---- conversions ---- */

static void widen_from_bf16(float *to, const void *from, int32_t count) {
  for (int32_t i = 0; i < count; i += LANES) STORE(to + i, (vf)(VU_OF_U16((const uint16_t *)from + i) << 16));
}

static void widen_from_fp16(float *to, const void *from, int32_t count) {
  for (int32_t i = 0; i < count; i += LANES) widen_fp16(to + i, (const uint16_t *)from + i);
}

static void widen_from_fp32(float *to, const void *from, int32_t count) {
  memcpy(to, from, sizeof(float) * (size_t)count);
}

static void narrow_to_bf16(void *to, const float *from, float scale, int32_t count) {
  for (int32_t i = 0; i < count; i += LANES) {
    vf value = LOAD(from + i) * scale;
    vu bits = (vu)value;
    vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; /* to nearest, ties to even */
    vu quiet_nan = (bits >> 16) | 0x40;                      /* rounding could carry a NaN's payload into infinity */
    vu is_nan = (vu)(value != value);
    *(vh *)((uint16_t *)to + i) = __builtin_convertvector((rounded & ~is_nan) | (quiet_nan & is_nan), vh);
  }
}

static void narrow_to_fp16(void *to, const float *from, float scale, int32_t count) {
  for (int32_t i = 0; i < count; i += LANES) narrow_fp16((uint16_t *)to + i, LOAD(from + i) * scale);
}

static void narrow_to_fp32(void *to, const float *from, float scale, int32_t count) {
  for (int32_t i = 0; i < count; i += LANES) *(vf_unaligned *)((float *)to + i) = LOAD(from + i) * scale;
}

static void add_weighted(float *sums, const float *values, float weight, int32_t count) {
  for (int32_t i = 0; i < count; i += LANES)
    STORE(sums + i, VF_FMA(SPLAT(weight), (vf)(*(const vf_unaligned *)(values + i)), LOAD(sums + i)));
}

/* ---- logits ---- */

/* Both layouts cost rows * d_qk / LANES multiplications a token when the lanes are full; along the head
 * dimension none is wasted, but the lanes must be summed at the end. */
INLINE int few_rows(int32_t rows) { return rows <= LANES / 2; }

/* Vectors of rows in the panel that begins at vector `v` of `vectors`: TILE_VECTORS, then halves of it. */
INLINE int32_t panel_vectors(int32_t v, int32_t vectors) {
  int32_t width = TILE_VECTORS;
  while (width > vectors - v) width /= 2;
  return width;
}

static void pack_query(const fm_cpu_scratch *scratch, const float *query, int32_t row, int32_t rows) {
  if (few_rows(rows)) {
    memcpy(scratch->queries + row * FM_CPU_KEY_STRIDE, query, sizeof(float) * (size_t)scratch->d_qk);
    return;
  }
  const int32_t vectors = (rows + LANES - 1) / LANES;
  int32_t v = 0;
  while (row / LANES >= v + panel_vectors(v, vectors)) v += panel_vectors(v, vectors);
  const int32_t width = panel_vectors(v, vectors) * LANES;
  float *column = scratch->queries + v * LANES * FM_CPU_KEY_STRIDE + (row - v * LANES);
  for (int32_t d = 0; d < scratch->d_qk; d++) column[d * width] = query[d];
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
      vf key = SPLAT(keys[t * FM_CPU_KEY_STRIDE + d]);
      for (int v = 0; v < vectors; v++) sum[t][v] = VF_FMA(key, query[v], sum[t][v]);
    }
  }
  for (int t = 0; t < tokens; t++) {
    for (int v = 0; v < vectors; v++) {
      float *weight = weights + t * FM_CPU_WEIGHT_STRIDE + v * LANES;
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
    for (int t = 0; t < TILE_TOKENS; t++) sum[t] = VF_FMA(part, LOAD(keys + t * FM_CPU_KEY_STRIDE + d), sum[t]);
  }
  for (int t = 0; t < TILE_TOKENS; t++) weights[t * FM_CPU_WEIGHT_STRIDE] = VF_SUM(sum[t]);
}

static void logits_many_rows(const fm_cpu_scratch *scratch, int32_t vectors, int32_t tokens) {
  for (int32_t v = 0, width; v < vectors; v += width) {
    const float *queries = scratch->queries + v * LANES * FM_CPU_KEY_STRIDE;
    width = panel_vectors(v, vectors);
    for (int32_t depth = 0, end; depth < scratch->d_qk; depth = end) {
      end = depth + TILE_DEPTH < scratch->d_qk ? depth + TILE_DEPTH : scratch->d_qk;
      for (int32_t t = 0, step; t < tokens; t += step) {
        const float *keys = scratch->keys + t * FM_CPU_KEY_STRIDE;
        float *weights = scratch->weights + t * FM_CPU_WEIGHT_STRIDE + v * LANES;
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

static void logits(const fm_cpu_scratch *scratch, int32_t rows, int32_t tokens) {
  const int32_t padded = (tokens + 2 * TILE_TOKENS - 1) / (2 * TILE_TOKENS) * (2 * TILE_TOKENS);
  memset(scratch->keys + tokens * FM_CPU_KEY_STRIDE, 0, sizeof(float) * FM_CPU_KEY_STRIDE * (size_t)(padded - tokens));
  if (!few_rows(rows)) {
    logits_many_rows(scratch, (rows + LANES - 1) / LANES, padded);
    return;
  }
  for (int32_t t = 0; t < padded; t += TILE_TOKENS)
    for (int32_t row = 0; row < rows; row++)
      logits_dot(scratch->weights + t * FM_CPU_WEIGHT_STRIDE + row, scratch->keys + t * FM_CPU_KEY_STRIDE,
                 scratch->queries + row * FM_CPU_KEY_STRIDE, scratch->d_qk);
}

/* ---- softmax ---- */

/* 2^x for x <= 0, relative error below 2e-7; 0 below the normal range; NaN stays NaN. */
INLINE vf exp2_vector(vf x) {
  const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits */
  const vf lowest = SPLAT(-126.0f);
  const vf kept = VF_MAX(lowest, x);
  const vf shifted = kept + round;
  const vi integer = (vi)shifted - (vi)SPLAT(round);
  const vf f = kept - (shifted - round); /* [-0.5, 0.5] */
  /* Taylor series: ln(2)^k / k!. The first term left out is below 6e-9. */
  vf y = SPLAT(1.5252734e-5f);
  y = VF_FMA(y, f, SPLAT(1.5403530e-4f));
  y = VF_FMA(y, f, SPLAT(1.3333558e-3f));
  y = VF_FMA(y, f, SPLAT(9.6181291e-3f));
  y = VF_FMA(y, f, SPLAT(5.5504109e-2f));
  y = VF_FMA(y, f, SPLAT(2.4022651e-1f));
  y = VF_FMA(y, f, SPLAT(6.9314718e-1f));
  y = VF_FMA(y, f, SPLAT(1.0f));
  y *= (vf)((integer + 127) << 23);
  return (vf)((vi)y & ~(x < lowest));
}

static void softmax(const fm_cpu_scratch *scratch, int32_t rows, int32_t tokens, float scale_log2) {
  for (int32_t r = 0; r < rows; r += LANES) {
    float *column = scratch->weights + r;
    const vf before = LOAD(scratch->row_max + r);
    vf now = before;
    for (int32_t t = 0; t < tokens; t++) now = VF_MAX(LOAD(column + t * FM_CPU_WEIGHT_STRIDE), now);
    /* A row that has attended nothing yet keeps weight 0 = 2^(-inf - 0), not NaN = 2^(-inf + inf). */
    const vf base = (vf)((vi)now & ~(now == -INFINITY));
    vf sum = (vf){0};
    for (int32_t t = 0; t < tokens; t++) {
      float *weight = column + t * FM_CPU_WEIGHT_STRIDE;
      const vf w = exp2_vector((LOAD(weight) - base) * scale_log2);
      STORE(weight, w);
      sum += w;
    }
    const vf rescale = exp2_vector((before - base) * scale_log2);
    STORE(scratch->row_max + r, now);
    STORE(scratch->rescale + r, rescale);
    STORE(scratch->row_sum + r, VF_FMA(LOAD(scratch->row_sum + r), rescale, sum));
  }
}

/* ---- weighted sum of values ---- */

INLINE void accumulate_tile(float *sums, const float *weights, const float *values, const float *rescale,
                            int32_t tokens, const int rows) {
  vf sum[SUM_ROWS][SUM_VECTORS];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < SUM_VECTORS; v++) sum[r][v] = LOAD(sums + r * FM_CPU_SUM_STRIDE + v * LANES) * rescale[r];
  for (int32_t t = 0; t < tokens; t++, weights += FM_CPU_WEIGHT_STRIDE, values += FM_CPU_KEY_STRIDE) {
    vf value[SUM_VECTORS];
    for (int v = 0; v < SUM_VECTORS; v++) value[v] = LOAD(values + v * LANES);
    for (int r = 0; r < rows; r++) {
      vf weight = SPLAT(weights[r]);
      for (int v = 0; v < SUM_VECTORS; v++) sum[r][v] = VF_FMA(weight, value[v], sum[r][v]);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < SUM_VECTORS; v++) STORE(sums + r * FM_CPU_SUM_STRIDE + v * LANES, sum[r][v]);
}

static void accumulate(const fm_cpu_scratch *scratch, int32_t row, int32_t rows, int32_t tokens) {
  for (int32_t c = 0; c < scratch->d_v; c += SUM_VECTORS * LANES) {
    const float *values = scratch->keys + c;
    for (int32_t r = row, left = rows, step; left > 0; r += step, left -= step) {
      float *sums = scratch->sums + r * FM_CPU_SUM_STRIDE + c;
      const float *weights = scratch->weights + r, *rescale = scratch->rescale + r;
      step = left >= SUM_ROWS ? SUM_ROWS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
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

const fm_cpu_kernels KERNELS = {
    .isa = ISA,
    .lanes = LANES,
    .widen = {[FM_BF16] = widen_from_bf16, [FM_FP16] = widen_from_fp16, [FM_FP32] = widen_from_fp32},
    .narrow = {[FM_BF16] = narrow_to_bf16, [FM_FP16] = narrow_to_fp16, [FM_FP32] = narrow_to_fp32},
    .add_weighted = add_weighted,
    .pack_query = pack_query,
    .logits = logits,
    .softmax = softmax,
    .accumulate = accumulate,
};
