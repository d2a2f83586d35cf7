/* kernels_amx.c - a step of attention for x86-64 CPUs with AMX-BF16: one instruction multiplies two tiles, 16 rows of
 * 32 elements by 32 of 16, of which pairs lie side by side. tests/test_amx.py compiles this file with the tile
 * instructions written in C, too. */
#include "cpu/isa.h"
#if FM_CPU_HAS_BF16_SETS
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define NAME(part) fm_cpu_amx_##part

#if defined(__clang__)
#pragma clang attribute push(                                                                                 \
    __attribute__((target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#include "cpu/vectors_avx512.h"

#include "cpu/elements_template.h"
#include "cpu/pairs_avx512.h"

enum {
  KEYS_MANY_ROWS = 128, /* with 128 query rows and the keys to come all fits 1 MB of level 2 */
  KEYS_FEW_ROWS = 128,  /* sums of 16 rows are as many bytes as 28 keys, and move to and fro in each step */
  FEW_ROWS = 32,
  KEY_GROUP = 16, /* rows of a tile */
  VALUE_GROUP = 32,
  DOT_ROWS = 0,
  DIRECT_ROWS = LANES,       /* a block, whose weights stand for one token of a pair at a time */
  FLOP_PER_THREAD = 8 << 20, /* 4 of them: 50 us at 0.7 TFLOP/s */
  COPIES = 1,                /* of keys that do not lie at equal distances */
  TILE_BYTES = 64,
  COLUMNS = 128
};
#include "cpu/step_bf16.h"

/* Tiles 0 to 3 are sums, [rows of 4 or 5][columns of 6 or 7]. */
static const struct {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tiles = {
    .palette = 1,
    .row_bytes = {TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* A tile's rows in memory, and how far the next tile along the summed dimension is; in bytes. */
typedef struct operand {
  const char *at[2];
  int64_t stride[2], step;
} operand;

/* Adds products over `depth` tiles, of one or two tiles of each side. */
INLINE void multiply(const operand *left, const operand *right, int32_t depth, const bool two_left,
                     const bool two_right, key_set *keys) {
  for (int64_t k = 0; k < depth; k++) {
    fetch_lines(keys);
    _tile_loadd(4, left->at[0] + k * left->step, left->stride[0]);
    _tile_loadd(6, right->at[0] + k * right->step, right->stride[0]);
    _tile_dpbf16ps(0, 4, 6);
    if (two_right) _tile_loadd(7, right->at[1] + k * right->step, right->stride[1]);
    if (two_right) _tile_dpbf16ps(1, 4, 7);
    if (two_left) _tile_loadd(5, left->at[1] + k * left->step, left->stride[1]);
    if (two_left) _tile_dpbf16ps(2, 5, 6);
    if (two_left && two_right) _tile_dpbf16ps(3, 5, 7);
  }
}

/* sums: [16 or 32 rows][16 or 32 columns] in memory with a stride in bytes; `set`: nothing is there yet. */
INLINE void multiply_into(float *sums, int64_t stride, bool set, const operand *left, const operand *right,
                          int32_t depth, const bool two_left, const bool two_right, key_set *keys) {
  char *const at = (char *)sums, *const below = at + LANES * stride;
  if (set) {
    _tile_zero(0);
    if (two_right) _tile_zero(1);
    if (two_left) _tile_zero(2);
    if (two_left && two_right) _tile_zero(3);
  } else {
    _tile_loadd(0, at, stride);
    if (two_right) _tile_loadd(1, at + TILE_BYTES, stride);
    if (two_left) _tile_loadd(2, below, stride);
    if (two_left && two_right) _tile_loadd(3, below + TILE_BYTES, stride);
  }
  multiply(left, right, depth, two_left, two_right, keys);
  _tile_stored(0, at, stride);
  if (two_right) _tile_stored(1, at + TILE_BYTES, stride);
  if (two_left) _tile_stored(2, below, stride);
  if (two_left && two_right) _tile_stored(3, below + TILE_BYTES, stride);
}

static void multiply_tiles(float *sums, int64_t stride, bool set, const operand *left, const operand *right,
                           int32_t depth, bool two_left, bool two_right, key_set *keys) {
  if (two_left && two_right)
    multiply_into(sums, stride, set, left, right, depth, true, true, keys);
  else if (two_left)
    multiply_into(sums, stride, set, left, right, depth, true, false, keys);
  else if (two_right)
    multiply_into(sums, stride, set, left, right, depth, false, true, keys);
  else
    multiply_into(sums, stride, set, left, right, depth, false, false, keys);
}

/* Where 16 keys lie: in the cache if they are aligned and at equal distances, as within a page, else in a copy. */
static void set_group(const buffers *b, key_set *keys, int32_t group) {
  const void *const *rows = keys->rows + group * KEY_GROUP;
  const char *first = rows[0];
  const int64_t stride = (const char *)rows[1] - first;
  bool even = ((uintptr_t)first | (uint64_t)stride) % TILE_BYTES == 0;
  for (int t = 2; t < KEY_GROUP; t++) even &= (const char *)rows[t] - first == t * stride;
  bf16 *copy = b->copies + group * KEY_GROUP * KEY_STRIDE;
  for (int t = 0; !even && t < KEY_GROUP; t++) memcpy(copy + t * KEY_STRIDE, rows[t], sizeof(bf16) * (size_t)b->d_qk);
  keys->group[group] = even ? first : (const char *)copy;
  keys->group_stride[group] = even ? stride : (int64_t)sizeof(bf16) * KEY_STRIDE;
}

/* The compiler does not know that tiles are read from memory. */
static inline void finish_stores(void) { __asm__ volatile("" ::: "memory"); }

static void logits(const buffers *b, key_set *keys) {
  const int32_t rows = padded_rows(b->rows), count = keys->in_logits, depth = b->d_qk / (2 * LANES);
  const int32_t calls = (rows + LANES) / (2 * LANES) * depth;
  _tile_loadconfig(&tiles);
  for (int32_t t = 0; t < count; t += 2 * KEY_GROUP) {
    const bool two_left = t + KEY_GROUP < count;
    operand left = {.step = TILE_BYTES};
    for (int32_t i = 0, group = t / KEY_GROUP; i < 1 + two_left; i++, group++) {
      set_group(b, keys, group);
      left.at[i] = keys->group[group], left.stride[i] = keys->group_stride[group];
    }
    finish_stores();
    plan_fetches(keys, LOGITS, t + 2 * KEY_GROUP, count, calls);
    for (int32_t r = 0; r < rows; r += 2 * LANES) {
      const char *queries = (const char *)(b->queries + r * D_PAIRS);
      const operand right = {.at = {queries, queries + sizeof *b->queries * LANES * D_PAIRS},
                             .stride = {TILE_BYTES, TILE_BYTES},
                             .step = LANES * TILE_BYTES};
      multiply_tiles(b->logits + t * LOGIT_STRIDE + r, sizeof(float) * LOGIT_STRIDE, true, &left, &right, depth,
                     two_left, r + LANES < rows, keys);
    }
  }
}

static void accumulate(const buffers *b, key_set *keys, bool set) {
  const int32_t rows = padded_rows(b->rows), depth = keys->in_sums / VALUE_GROUP, pairs = keys->in_sums / 2;
  const int32_t panel = pairs * PANEL;
  for (int32_t from = 0; from < b->d_v; from += COLUMNS) {
    const int32_t end = from + COLUMNS < b->d_v ? from + COLUMNS : b->d_v;
    const int32_t calls =
        (end - from) / PANEL * pairs + (rows + LANES) / (2 * LANES) * (end - from) / (2 * LANES) * depth;
    plan_fetches(keys, SUMS, end, b->d_v, calls);
    for (int32_t c = from; c < end; c += PANEL) pack_values(b->values + (c - from) / PANEL * panel, keys, c);
    finish_stores();
    for (int32_t r = 0; r < rows; r += 2 * LANES) {
      const char *weights = (const char *)(b->weights + r * WEIGHT_STRIDE);
      const int64_t stride = sizeof *b->weights * WEIGHT_STRIDE;
      const operand left = {.at = {weights, weights + LANES * stride}, .stride = {stride, stride}, .step = TILE_BYTES};
      for (int32_t c = from; c < end; c += 2 * LANES) {
        const char *values = (const char *)(b->values + (c - from) / PANEL * panel + c % PANEL);
        const int64_t row_bytes = sizeof *b->values * PANEL;
        const operand right = {
            .at = {values, values + TILE_BYTES}, .stride = {row_bytes, row_bytes}, .step = LANES * row_bytes};
        multiply_tiles(b->sums + r * SUM_STRIDE + c, sizeof(float) * SUM_STRIDE, set, &left, &right, depth,
                       r + LANES < rows, true, keys);
      }
    }
  }
  _tile_release(); /* so that a switch of tasks has no tiles to keep */
}

/* A key with an infinite or NaN value has no finite logit, whatever the query; nor has one that a row does not attend.
 */
static bool takes_direct(const buffers *b, const key_set *keys) {
  const uint32_t exponent = 0x7f800000;
  vu others = {0};
  for (int32_t t = 0; t < keys->count; t++)
    others |= (vu)((LOAD_PAIRS(b->logits + t * LOGIT_STRIDE) & exponent) == exponent);
  uint32_t any = 0;
  for (int i = 0; i < LANES; i++) any |= others[i];
  return any == 0;
}

/* A pair of two columns of a token is as good as one of two tokens in a column: the weight stands in one half of a pair
 * of weights, for sums of even columns or of odd ones, and 0 in the other one. That is twice the products, which are
 * not what takes the time, and values are used where they lie. */
static void accumulate_direct(const buffers *b, key_set *keys, bool set) {
  enum { HALVES = 2, GROUP_WEIGHTS = HALVES * LANES * LANES };
  const int32_t groups = keys->in_logits / KEY_GROUP;
  uint32_t *const weights = b->values; /* [groups][HALVES][rows][tokens]: pairs */
  for (int32_t g = 0; g < groups; g++) {
    for (int32_t r = 0; r < LANES; r++) {
      uint32_t *to = weights + g * GROUP_WEIGHTS + r * LANES;
      const vu weight = VU_OF_U16((const bf16 *)(b->weights + r * WEIGHT_STRIDE) + g * KEY_GROUP);
      STORE_PAIRS(to, weight);
      STORE_PAIRS(to + LANES * LANES, weight << 16);
    }
  }
  finish_stores();
  plan_fetches(keys, SUMS, 1, 1, b->d_v / PANEL * groups);
  const int64_t stride = sizeof(float) * SUM_STRIDE;
  for (int32_t c = 0; c < b->d_v; c += PANEL) {
    float *sums = b->sums + c;
    if (set) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    } else {
      _tile_loadd(0, sums, stride);
      _tile_loadd(1, sums + LANES, stride);
      _tile_loadd(2, sums + 2 * LANES, stride);
      _tile_loadd(3, sums + 3 * LANES, stride);
    }
    for (int32_t g = 0; g < groups; g++) {
      const char *values = keys->group[g] + sizeof(bf16) * (size_t)c;
      fetch_lines(keys);
      _tile_loadd(4, weights + g * GROUP_WEIGHTS, TILE_BYTES);
      _tile_loadd(6, values, keys->group_stride[g]);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, weights + g * GROUP_WEIGHTS + LANES * LANES, TILE_BYTES);
      _tile_dpbf16ps(1, 5, 6);
      _tile_loadd(7, values + TILE_BYTES, keys->group_stride[g]);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, stride);
    _tile_stored(1, sums + LANES, stride);
    _tile_stored(2, sums + 2 * LANES, stride);
    _tile_stored(3, sums + 3 * LANES, stride);
  }
  _tile_release();
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
