/* codes.h - numbers of 8 bits, and bfloat16, from float32 and back; exact, and the same in any floating-point mode that
 * rounds to nearest. The kernels give the same bits. */
#ifndef FLASHMLA_FORMATS_CODES_H_
#define FLASHMLA_FORMATS_CODES_H_

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { FM_INFINITY_BITS = 0x7f800000, FM_E4M3_NAN = 0x7f, FM_E8M0_NAN = 0xff };

static inline uint32_t fm_bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
static inline float fm_float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* float8_e4m3fn: a sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinity, and NaN has all bits but the sign.
 * To nearest, ties to even; beyond 448, the largest, 448. x is no NaN. */
static inline uint8_t fm_e4m3_of(float x) {
  const int32_t most = 0x43e00000, least = 0x3c800000; /* 448; 2^-6, below which codes are subnormal */
  const float step = 16384.0f;                         /* its neighbours are 2^-9 away, as subnormal codes are */
  const int32_t bits = (int32_t)fm_bits_of(x), given = bits & 0x7fffffff, size = given < most ? given : most;
  const int32_t normal = ((size + 0x7ffff + ((size >> 20) & 1)) >> 20) - (120 << 3);
  const int32_t subnormal = (int32_t)(fm_bits_of(fm_float_of((uint32_t)size) + step) - fm_bits_of(step));
  const int32_t is_small = -(size < least); /* masks instead of branches: loops over columns become vectors */
  return (uint8_t)((bits >> 24 & 0x80) | (subnormal & is_small) | (normal & ~is_small));
}

/* The same of any number: NaN is FM_E4M3_NAN. */
static inline uint8_t fm_e4m3_of_any(float x) {
  const uint8_t is_nan = (uint8_t)-(int)((fm_bits_of(x) & 0x7fffffff) > FM_INFINITY_BITS);
  return (uint8_t)((FM_E4M3_NAN & is_nan) | (fm_e4m3_of(x) & ~is_nan));
}

/* float8_e8m0fnu of a power of two in its range, or of NaN. */
static inline uint8_t fm_e8m0_of(float x) { return (uint8_t)(fm_bits_of(x) >> 23 & 0xff); }

static inline float fm_of_e8m0(uint8_t code) {
  return fm_float_of(code == FM_E8M0_NAN ? 0x7fc00000 : code == 0 ? 0x00400000 : (uint32_t)code << 23);
}

/* To nearest, ties to even; every NaN becomes 0x7fff, as on a GPU. */
static inline uint16_t fm_bf16_of(float x) {
  const uint32_t bits = fm_bits_of(x);
  if ((bits & 0x7fffffff) > FM_INFINITY_BITS) return 0x7fff;
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#endif /* FLASHMLA_FORMATS_CODES_H_ */
