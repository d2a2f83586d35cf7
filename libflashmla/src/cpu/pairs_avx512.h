/* pairs_avx512.h - what step_bf16.h needs, in AVX-512 BF16. */

/* VCVTNE2PS2BF16 puts one vector behind the other. */
INLINE vu bf16_pairs(__m512 low, __m512 high) {
  static const uint16_t order[2 * LANES]
      __attribute__((aligned(64))) = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (vu)_mm512_permutexvar_epi16(_mm512_load_si512(order), (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
#define BF16_PAIRS(low, high) bf16_pairs((__m512)(low), (__m512)(high))

/* exp2_vector in fewer instructions: 2^x = 2^n * 2^f, n being the nearest integer. The polynomial is that of Cephes'
 * exp2f, whose relative error on [-0.5, 0.5] is below 2e-7. */
INLINE vf exp2_avx512(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 y = _mm512_set1_ps(1.535336188319500e-4f);
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.339887440266574e-3f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.618437357674640e-3f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.550332471162809e-2f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.402264791363012e-1f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.931472028550421e-1f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
  const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ); /* or NaN */
  return (vf)_mm512_maskz_scalef_ps(normal, y, _mm512_sub_ps(x, f));
}
#define EXP2(x) exp2_avx512((__m512)(x))
