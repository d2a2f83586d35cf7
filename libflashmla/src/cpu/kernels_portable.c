/* kernels_portable.c - micro-kernels for any CPU: 4 floats a vector, which every x86-64 and AArch64 has. */
#include <math.h>
#include <string.h>

#include "cpu/isa.h"

#ifndef WIDE
#define NAME(part) fm_cpu_portable_##part
#endif
#define LANES 4
#define TILE_TOKENS 6
#define TILE_VECTORS 2
#define SUM_ROWS 6
#define SUM_VECTORS 2
#define VF_FMA(a, b, c) ((a) * (b) + (c))
#define VF_MAX(a, b) ((vf)(((vi)(a) & ((a) > (b))) | ((vi)(b) & ~((a) > (b)))))
#define VF_SUM(a) (((a)[0] + (a)[1]) + ((a)[2] + (a)[3]))
#if defined(__aarch64__) /* which shifts by vectors, and converts bytes one by one */
#define VU_OF_U8(p) ((*(const word *)(p) + (vu){0}) >> (vu){0, 8, 16, 24} & 0xff)
#else
#define VU_OF_U8(p) __builtin_convertvector(*(const vb *)(p), vu)
#endif
#define VU_OF_U16(p) __builtin_convertvector(*(const vh *)(p), vu)

typedef uint32_t word __attribute__((aligned(1), may_alias));

typedef union float_bits {
  float value;
  uint32_t bits;
} float_bits;

static inline void widen_fp16(float *to, const uint16_t *from) {
  for (int i = 0; i < LANES; i++) {
    const uint32_t half = from[i], exponent = half & 0x7c00;
    float_bits x = {.bits = ((half & 0x7fff) << 13) + (112u << 23)}; /* the exponent bias is 15, and 127 */
    if (exponent == 0x7c00) x.bits += 112u << 23;                    /* infinity, NaN */
    if (exponent == 0) { /* zero, subnormal: the last places are those of 2^-14, which the exponent 1 would add */
      x.bits += 1u << 23;
      x.value -= 0x1p-14f;
    }
    x.bits |= (half & 0x8000) << 16;
    to[i] = x.value;
  }
}

static inline uint16_t fp16_of(float value) {
  float_bits x = {.value = value};
  const uint32_t sign = (x.bits >> 16) & 0x8000;
  x.bits &= 0x7fffffff;
  if (x.bits > 0x7f800000) return (uint16_t)(sign | 0x7e00 | ((x.bits >> 13) & 0x3ff)); /* NaN */
  if (x.value >= 65520.0f)
    return (uint16_t)(sign | 0x7c00); /* halfway to the power of two above the largest half: infinity */
  if (x.value < 0x1p-14f) {           /* subnormal: the sum's last place is 2^-24, that of a half */
    x.value += 0.5f;
    return (uint16_t)(sign | (x.bits - 0x3f000000));
  }
  return (uint16_t)(sign | ((x.bits - (112u << 23) + 0xfff + ((x.bits >> 13) & 1)) >> 13));
}

static inline void narrow_fp16(uint16_t *to, __attribute__((vector_size(4 * LANES))) float value) {
  for (int i = 0; i < LANES; i++) to[i] = fp16_of(value[i]);
}

#include "cpu/elements_template.h"
#include "cpu/step_template.h"
