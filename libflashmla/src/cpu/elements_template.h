/* elements_template.h - rows of elements, written once over a vector type. Included by kernels_<set>.c,
 * which defines
 *   NAME(part)      fm_cpu_<set>_<part>
 *   LANES           floats in a vector
 *   VF_FMA(a, b, c) a * b + c
 *   VF_MAX(a, b)    a > b ? a : b, so b where one of them is NaN
 *   VU_OF_U8(from), VU_OF_U16(from) LANES integers of 8 or 16 bits as 32-bit ones
 *   widen_fp16(to, from), narrow_fp16(to, vector): LANES elements
 */

typedef float vf __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), may_alias));
typedef float vf_unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint8_t vb __attribute__((vector_size(LANES), aligned(1), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define SPLAT(x) ((x) - (vf){0})
#define LOAD(p) (*(const vf *)(p))
#define STORE(p, v) (*(vf *)(p) = (v))

static void widen_from_bf16(float *to, const void *from, int32_t count) {
  for (int32_t i = 0; i < count; i += LANES) STORE(to + i, (vf)(VU_OF_U16((const uint16_t *)from + i) << 16));
}

static void widen_from_fp16(float *to, const void *from, int32_t count) {
  for (int32_t i = 0; i < count; i += LANES) widen_fp16(to + i, (const uint16_t *)from + i);
}

static void widen_from_fp32(float *to, const void *from, int32_t count) {
  memcpy(to, from, sizeof(float) * (size_t)count);
}

/* A sign, 4 bits of exponent with bias 7, 3 of mantissa; all bits but the sign: NaN. Without a branch, and without
 * subnormal numbers in between, which are slow. */
static void decode_e4m3(float *to, const uint8_t *codes, float scale, int32_t count) {
  for (int32_t i = 0; i < count; i += LANES) {
    const vu code = VU_OF_U8(codes + i), size = code & 0x7f;
    const vu normal = (size << 20) + (120u << 23), nan = (vu)(size == 0x7f) & 0x7fc00000;
    const vf subnormal = __builtin_convertvector((vi)size, vf) * 0x1p-9f;
    const vu is_small = (vu)(size < 8);
    const vu number = ((vu)subnormal & is_small) | (normal & ~is_small);
    STORE(to + i, (vf)((code & 0x80) << 24 | number | nan) * scale);
  }
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

const fm_cpu_elements NAME(elements) = {
    .lanes = LANES,
    .widen = {[FM_BF16] = widen_from_bf16, [FM_FP16] = widen_from_fp16, [FM_FP32] = widen_from_fp32},
    .narrow = {[FM_BF16] = narrow_to_bf16, [FM_FP16] = narrow_to_fp16, [FM_FP32] = narrow_to_fp32},
    .decode_e4m3 = decode_e4m3,
    .add_weighted = add_weighted,
};
