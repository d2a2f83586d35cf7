/* tiles.h - what kernels_amx.c needs of its machine, written in C: the tile instructions as the "Intel 64 and IA-32
 * Architectures Software Developer's Manual" defines them, and vectors of 16 floats on any machine. A tile that is not
 * configured as its use asks for ends the program. */
#ifndef FLASHMLA_TESTS_AMX_TILES_H_
#define FLASHMLA_TESTS_AMX_TILES_H_

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi" /* vectors that are arguments: all functions are of this file */
#endif

/* ---- vectors ---- */

#define LANES 16
typedef float tiles_vf __attribute__((vector_size(64)));
typedef int32_t tiles_vi __attribute__((vector_size(64)));
typedef uint32_t tiles_vu __attribute__((vector_size(64)));
typedef uint16_t tiles_vh __attribute__((vector_size(32), aligned(2), may_alias));
#define VF_FMA(a, b, c) ((a) * (b) + (c))
#define VF_MAX(a, b) ((vf)(((vi)(a) & ((a) > (b))) | ((vi)(b) & ~((a) > (b)))))
#define VU_OF_U8(p) __builtin_convertvector(*(const vb *)(p), vu)
#define VU_OF_U16(p) __builtin_convertvector(*(const tiles_vh *)(p), vu)

/* The row takes no float16, and the library that is tested has the conversions of another row. */
static inline void widen_fp16(float *to, const uint16_t *from) {
  (void)to, (void)from;
  abort();
}

static inline void narrow_fp16(uint16_t *to, tiles_vf value) {
  (void)to, (void)value;
  abort();
}

static inline uint32_t tiles_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float tiles_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* As VCVTNE2PS2BF16: to nearest even, subnormals are zero, NaN is quiet. */
static inline uint32_t tiles_bf16(float value) {
  const uint32_t bits = tiles_bits(value), magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return bits >> 16 | 0x40;
  if (magnitude < 0x00800000) return bits >> 16 & 0x8000;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline tiles_vu tiles_pairs(tiles_vf low, tiles_vf high) {
  tiles_vu pairs;
  for (int i = 0; i < LANES; i++) pairs[i] = tiles_bf16(low[i]) | tiles_bf16(high[i]) << 16;
  return pairs;
}
#define EXP2(x) exp2_vector(x)
#define BF16_PAIRS(low, high) ((vu)tiles_pairs((tiles_vf)(low), (tiles_vf)(high)))

/* ---- tiles ---- */

enum { TILES_COUNT = 8, TILES_ROWS = 16, TILES_ROW_BYTES = 64 };

/* What LDTILECFG reads. */
typedef struct tiles_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tiles_config;

static _Thread_local struct {
  tiles_config config; /* palette 0: none */
  uint8_t data[TILES_COUNT][TILES_ROWS][TILES_ROW_BYTES];
} tiles_state;

static inline void tiles_require(bool good) {
  if (!good) abort();
}

static inline void _tile_release(void) { memset(&tiles_state, 0, sizeof tiles_state); }

static inline void _tile_loadconfig(const void *from) {
  _tile_release();
  memcpy(&tiles_state.config, from, sizeof tiles_state.config);
  const tiles_config *config = &tiles_state.config;
  tiles_require(config->palette == 1 && config->start_row == 0);
  for (int i = 0; i < 14; i++) tiles_require(config->reserved[i] == 0);
  for (int i = 0; i < 16; i++) {
    tiles_require(config->rows[i] <= TILES_ROWS && config->row_bytes[i] <= TILES_ROW_BYTES);
    tiles_require((config->rows[i] == 0) == (config->row_bytes[i] == 0));
    tiles_require(i < TILES_COUNT || config->rows[i] == 0);
  }
}

static inline int tiles_rows(int tile) {
  tiles_require(tiles_state.config.palette == 1 && tiles_state.config.rows[tile] != 0);
  return tiles_state.config.rows[tile];
}

static inline int tiles_row_bytes(int tile) {
  tiles_rows(tile);
  return tiles_state.config.row_bytes[tile];
}

static inline void _tile_zero(int tile) {
  tiles_rows(tile);
  memset(tiles_state.data[tile], 0, sizeof tiles_state.data[tile]);
}

static inline void _tile_loadd(int tile, const void *from, int64_t stride) {
  _tile_zero(tile);
  for (int row = 0; row < tiles_rows(tile); row++)
    memcpy(tiles_state.data[tile][row], (const char *)from + row * stride, (size_t)tiles_row_bytes(tile));
}

static inline void _tile_stored(int tile, void *to, int64_t stride) {
  for (int row = 0; row < tiles_rows(tile); row++)
    memcpy((char *)to + row * stride, tiles_state.data[tile][row], (size_t)tiles_row_bytes(tile));
}

/* Operands and results that are subnormal are zero, whatever the thread's mode is. */
static inline float tiles_flush(float value) {
  const uint32_t bits = tiles_bits(value);
  return (bits & 0x7f800000) == 0 ? tiles_float(bits & 0x80000000) : value;
}

static inline float tiles_half(uint32_t pair, int half) {
  return tiles_flush(tiles_float(half == 0 ? pair << 16 : pair & 0xffff0000));
}

/* TDPBF16PS: the even halves have a sum of their own, then the odd ones, which start from zero; each step is a fused
 * multiply-add. */
static inline void _tile_dpbf16ps(int to, int left, int right) {
  const int rows = tiles_rows(to), columns = tiles_row_bytes(to) / 4, depth = tiles_row_bytes(left) / 4;
  tiles_require(rows == tiles_rows(left) && columns == tiles_row_bytes(right) / 4 && depth == tiles_rows(right));
  for (int m = 0; m < rows; m++) {
    float sums[2][TILES_ROWS] = {{0}, {0}};
    for (int k = 0; k < depth; k++) {
      uint32_t a, b[TILES_ROWS];
      memcpy(&a, &tiles_state.data[left][m][4 * k], sizeof a);
      memcpy(b, tiles_state.data[right][k], sizeof b);
      for (int half = 0; half < 2; half++) {
        const float factor = tiles_half(a, half);
        for (int n = 0; n < columns; n++)
          sums[half][n] = tiles_flush(__builtin_fmaf(factor, tiles_half(b[n], half), sums[half][n]));
      }
    }
    float row[TILES_ROWS];
    memcpy(row, tiles_state.data[to][m], sizeof row);
    for (int n = 0; n < columns; n++) row[n] = tiles_flush(tiles_flush(row[n]) + tiles_flush(sums[0][n] + sums[1][n]));
    memcpy(tiles_state.data[to][m], row, sizeof row);
  }
}

#endif /* FLASHMLA_TESTS_AMX_TILES_H_ */
