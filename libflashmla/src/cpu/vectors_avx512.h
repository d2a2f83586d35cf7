/* vectors_avx512.h - what elements_template.h needs, in AVX-512 F, BW, DQ and VL. Included by the kernels_<set>.c that
 * have these. */
#define LANES 16
#define VF_FMA(a, b, c) ((vf)_mm512_fmadd_ps((a), (b), (c)))
#define VF_MAX(a, b) ((vf)_mm512_max_ps((a), (b)))
#define VF_SUM(a) _mm512_reduce_add_ps(a)
#define VU_OF_U8(p) ((vu)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p))))
#define VU_OF_U16(p) ((vu)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p))))

static inline void widen_fp16(float *to, const uint16_t *from) {
  _mm512_store_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)));
}

static inline void narrow_fp16(uint16_t *to, __m512 value) {
  _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
