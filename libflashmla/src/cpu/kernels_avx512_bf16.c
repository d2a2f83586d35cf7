/* kernels_avx512_bf16.c - a step of attention for x86-64 CPUs with AVX-512 BF16: one instruction multiplies and adds 16
 * pairs. */
#include "cpu/isa.h"
#if FM_CPU_HAS_BF16_SETS
#include <immintrin.h>
#include <math.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define NAME(part) fm_cpu_avx512_bf16_##part
#include "cpu/vectors_avx512.h"

#include "cpu/elements_template.h"
#include "cpu/pairs_avx512.h"

enum {
  KEYS_MANY_ROWS = 128, /* with 128 query rows all fits 1 MB of level 2 */
  KEYS_FEW_ROWS = 96,
  FEW_ROWS = 32,
  KEY_GROUP = 2,
  VALUE_GROUP = 2,
  DOT_ROWS = 8, /* lanes along the head dimension: up to so many rows, more would be padding than not */
  DIRECT_ROWS = 16,
  COLUMNS = 64,
  COPIES = 0,
  FLOP_PER_THREAD = 5 << 19, /* 4 of them: 55 us */
  TILE_KEYS = 6,             /* of a register tile of logits, the last ones but for KEY_GROUP */
  TILE_BLOCKS = 4,           /* of rows in it */
  ONE_BLOCK_KEYS = 12,       /* of a tile with one block, which is as many chains of products as hide their latency */
  FETCH_PAIRS = 4,           /* of tokens between fetches, where values are interleaved in registers */
  SUM_ROWS = 6               /* rows of a register tile of sums; its columns are a panel */
};
#include "cpu/step_bf16.h"

#define ADD_PAIRS(sum, a, b) ((vf)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(a), (__m512bh)(b)))

INLINE vu splat_pair(const uint32_t *pair) {
  vu splat = (vu)_mm512_set1_epi32((int)*pair);
#if defined(__clang__)
  __asm__("" : "+v"(splat)); /* clang 16 crashes where it sees that an operand of the product is one */
#endif
  return splat;
}

/* Every logit is one chain of products, whatever the tile: rows have the same bits beside any others. */
INLINE void logits_tile(float *to, key_set *keys, int32_t token, const uint32_t *queries, int32_t d_pairs,
                        const int tokens, const int blocks) {
  vf sum[ONE_BLOCK_KEYS][TILE_BLOCKS];
  for (int t = 0; t < tokens; t++)
    for (int v = 0; v < blocks; v++) sum[t][v] = (vf){0};
  const uint32_t *key[ONE_BLOCK_KEYS];
  for (int t = 0; t < tokens; t++) key[t] = keys->rows[token + t];
  for (int32_t d = 0; d < d_pairs; d++) {
    if (d % LANES == 0) fetch_lines(keys);
    vu query[TILE_BLOCKS];
    for (int v = 0; v < blocks; v++) query[v] = LOAD_PAIRS(queries + v * LANES * D_PAIRS + d * LANES);
    for (int t = 0; t < tokens; t++) {
      const vu pair = splat_pair(key[t] + d);
      for (int v = 0; v < blocks; v++) sum[t][v] = ADD_PAIRS(sum[t][v], query[v], pair);
    }
  }
  for (int t = 0; t < tokens; t++)
    for (int v = 0; v < blocks; v++) STORE(to + t * LOGIT_STRIDE + v * LANES, sum[t][v]);
}

/* Lanes along the head dimension. */
INLINE void logits_dot(float *to, key_set *keys, int32_t token, const uint32_t *queries, int32_t d_pairs,
                       const int tokens, const int rows) {
  fetch_lines(keys);
  vf sum[TILE_KEYS][2];
  for (int t = 0; t < tokens; t++)
    for (int r = 0; r < rows; r++) sum[t][r] = (vf){0};
  for (int32_t d = 0; d < d_pairs; d += LANES) {
    vu query[2];
    for (int r = 0; r < rows; r++) query[r] = LOAD_PAIRS(queries + r * D_PAIRS + d);
    for (int t = 0; t < tokens; t++) {
      const vu key = LOAD_PAIRS((const uint32_t *)keys->rows[token + t] + d);
      for (int r = 0; r < rows; r++) sum[t][r] = ADD_PAIRS(sum[t][r], query[r], key);
    }
  }
  for (int t = 0; t < tokens; t++)
    for (int r = 0; r < rows; r++) to[t * LOGIT_STRIDE + r] = VF_SUM((__m512)sum[t][r]);
}

/* All rows with some keys. */
INLINE void logits_of(const buffers *b, key_set *keys, int32_t token, const int tokens) {
  const int32_t d_pairs = b->d_qk / 2, blocks = padded_rows(b->rows) / LANES;
  float *to = b->logits + token * LOGIT_STRIDE;
  for (int32_t r = 0; b->rows <= DOT_ROWS && r < b->rows; r += 2) {
    if (r + 1 < b->rows)
      logits_dot(to + r, keys, token, b->queries + r * D_PAIRS, d_pairs, tokens, 2);
    else
      logits_dot(to + r, keys, token, b->queries + r * D_PAIRS, d_pairs, tokens, 1);
  }
  for (int32_t v = 0, step; b->rows > DOT_ROWS && v < blocks; v += step) {
    const uint32_t *queries = b->queries + v * LANES * D_PAIRS;
    step = blocks - v >= TILE_BLOCKS ? TILE_BLOCKS : blocks - v >= 2 ? 2 : 1;
    if (step == TILE_BLOCKS)
      logits_tile(to + v * LANES, keys, token, queries, d_pairs, tokens, TILE_BLOCKS);
    else if (step == 2)
      logits_tile(to + v * LANES, keys, token, queries, d_pairs, tokens, 2);
    else
      logits_tile(to + v * LANES, keys, token, queries, d_pairs, tokens, 1);
  }
}

static void logits(const buffers *b, key_set *keys) {
  const bool one_block = b->rows > DOT_ROWS && b->rows <= LANES;
  const int32_t tiles = (b->rows + LANES * TILE_BLOCKS - 1) / (LANES * TILE_BLOCKS);
  const int32_t calls = b->rows <= DOT_ROWS ? (b->rows + 1) / 2 : tiles * (b->d_qk / (2 * LANES));
  for (int32_t t = 0, step; t < keys->in_logits; t += step) {
    const int32_t rest = keys->in_logits - t;
    step = one_block && rest >= ONE_BLOCK_KEYS ? ONE_BLOCK_KEYS : rest >= TILE_KEYS ? TILE_KEYS : KEY_GROUP;
    plan_fetches(keys, LOGITS, t + step, keys->in_logits, calls);
    if (step == ONE_BLOCK_KEYS)
      logits_tile(b->logits + t * LOGIT_STRIDE, keys, t, b->queries, b->d_qk / 2, ONE_BLOCK_KEYS, 1);
    else if (step == TILE_KEYS)
      logits_of(b, keys, t, TILE_KEYS);
    else
      logits_of(b, keys, t, KEY_GROUP);
  }
}

INLINE void accumulate_tile(float *sums, const uint32_t *weights, const uint32_t *values, int32_t pairs, bool set,
                            const int rows) {
  vf sum[SUM_ROWS][PANEL / LANES];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < PANEL / LANES; v++) sum[r][v] = set ? (vf){0} : LOAD(sums + r * SUM_STRIDE + v * LANES);
  for (int32_t p = 0; p < pairs; p++, values += PANEL) {
    vu value[PANEL / LANES];
    for (int v = 0; v < PANEL / LANES; v++) value[v] = LOAD_PAIRS(values + v * LANES);
    for (int r = 0; r < rows; r++) {
      const vu weight = splat_pair(weights + r * WEIGHT_STRIDE + p);
      for (int v = 0; v < PANEL / LANES; v++) sum[r][v] = ADD_PAIRS(sum[r][v], value[v], weight);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < PANEL / LANES; v++) STORE(sums + r * SUM_STRIDE + v * LANES, sum[r][v]);
}

static void accumulate(const buffers *b, key_set *keys, bool set) {
  const int32_t pairs = keys->in_sums / 2;
  for (int32_t c = 0; c < b->d_v; c += PANEL) {
    plan_fetches(keys, SUMS, c + PANEL, b->d_v, pairs);
    pack_values(b->values, keys, c);
    for (int32_t r = 0, step; r < b->rows; r += step) {
      const int32_t rest = b->rows - r;
      float *sums = b->sums + r * SUM_STRIDE + c;
      const uint32_t *weights = b->weights + r * WEIGHT_STRIDE;
      step = rest >= SUM_ROWS && rest != SUM_ROWS + 2 ? SUM_ROWS : rest >= 4 ? 4 : rest >= 2 ? 2 : 1;
      if (step == SUM_ROWS)
        accumulate_tile(sums, weights, b->values, pairs, set, SUM_ROWS);
      else if (step == 4)
        accumulate_tile(sums, weights, b->values, pairs, set, 4);
      else if (step == 2)
        accumulate_tile(sums, weights, b->values, pairs, set, 2);
      else
        accumulate_tile(sums, weights, b->values, pairs, set, 1);
    }
  }
}

/* Of `columns` a multiple of 32. */
INLINE void accumulate_direct_tile(float *sums, const uint32_t *weights, key_set *keys, int32_t column, bool set,
                                   const int rows, const int columns) {
  const int32_t pairs = keys->in_sums / 2;
  vf sum[8][PANEL / LANES];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < columns / LANES; v++)
      sum[r][v] = set ? (vf){0} : LOAD(sums + r * SUM_STRIDE + column + v * LANES);
  for (int32_t p = 0; p < pairs; p++) {
    if (p % FETCH_PAIRS == 0) fetch_lines(keys);
    const bf16 *low = keys->rows[2 * p], *high = keys->rows[2 * p + 1];
    vu value[PANEL / LANES];
    for (int v = 0; v < columns / LANES; v += 2)
      interleave(value + v, low + column + v * LANES, high + column + v * LANES);
    for (int r = 0; r < rows; r++) {
      const vu weight = splat_pair(weights + r * WEIGHT_STRIDE + p);
      for (int v = 0; v < columns / LANES; v++) sum[r][v] = ADD_PAIRS(sum[r][v], value[v], weight);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < columns / LANES; v++) STORE(sums + r * SUM_STRIDE + column + v * LANES, sum[r][v]);
}

static bool takes_direct(const buffers *b, const key_set *keys) {
  (void)b;
  return keys->by_all == keys->count;
}

static void accumulate_direct(const buffers *b, key_set *keys, bool set) {
  const int32_t fetches = (keys->in_sums / 2 + FETCH_PAIRS - 1) / FETCH_PAIRS * (b->rows < 8 ? 1 : b->rows / 4);
  for (int32_t c = 0; c < b->d_v; c += PANEL) {
    plan_fetches(keys, SUMS, c + PANEL, b->d_v, fetches);
    for (int32_t r = 0, step; r < b->rows; r += step) {
      const int32_t rest = b->rows - r;
      float *sums = b->sums + r * SUM_STRIDE;
      const uint32_t *weights = b->weights + r * WEIGHT_STRIDE;
      step = rest >= 8 ? 8 : rest >= 4 ? 4 : rest >= 2 ? 2 : 1;
      for (int32_t half = 0; step == 8 && half < PANEL; half += 2 * LANES)
        accumulate_direct_tile(sums, weights, keys, c + half, set, 8, 2 * LANES);
      if (step == 4)
        accumulate_direct_tile(sums, weights, keys, c, set, 4, PANEL);
      else if (step == 2)
        accumulate_direct_tile(sums, weights, keys, c, set, 2, PANEL);
      else if (step == 1)
        accumulate_direct_tile(sums, weights, keys, c, set, 1, PANEL);
    }
  }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
