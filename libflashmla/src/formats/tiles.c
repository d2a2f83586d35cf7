/* tiles.c - see tiles.h. */
#include "formats/tiles.h"

#include "formats/codes.h"

/* The largest magnitude, as bits: they order as the numbers do, with infinity and then NaN above. */
static uint32_t largest_of(const float *columns, int32_t count) {
  uint32_t largest = 0;
  for (int32_t i = 0; i < count; ++i) {
    const uint32_t size = fm_bits_of(columns[i]) & 0x7fffffff;
    largest = size > largest ? size : largest;
  }
  return largest;
}

/* The power of two that is not below largest / 448 = largest / (1.75 * 2^8), at least 2^-13, that for 1e-4: 2 to the
 * exponent of `largest`, or to the next one where its mantissa is above 1.75, less 8. */
static float rounded_scale(uint32_t largest) {
  const int32_t bits = (int32_t)((largest + 0x1fffff) & 0x7f800000) - (8 << 23), least = 114 << 23;
  return fm_float_of((uint32_t)(bits > least ? bits : least));
}

float fm_quantize_tile(uint8_t *restrict codes, const float *restrict columns, int32_t count, bool unrounded) {
  const uint32_t largest = largest_of(columns, count);
  if (largest >= FM_INFINITY_BITS) {
    memset(codes, FM_E4M3_NAN, (size_t)count);
    return fm_float_of(0x7fc00000);
  }
  if (unrounded) {
    const float quotient = fm_float_of(largest) / 448.0f, scale = quotient > 1e-4f ? quotient : 1e-4f;
    for (int32_t i = 0; i < count; ++i) codes[i] = fm_e4m3_of(columns[i] / scale);
    return scale;
  }
  const float scale = rounded_scale(largest);
  const float inverse = fm_float_of((254u << 23) - fm_bits_of(scale));
  for (int32_t i = 0; i < count; ++i) codes[i] = fm_e4m3_of(columns[i] * inverse);
  return scale;
}

void fm_encode_columns(uint8_t *restrict codes, const float *restrict columns, int32_t count, float scale) {
  for (int32_t i = 0; i < count; ++i) codes[i] = fm_e4m3_of_any(columns[i] / scale);
}
