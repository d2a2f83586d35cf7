/* kernels_avx2.c - micro-kernels for x86-64 CPUs with AVX2, FMA and F16C. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/isa.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#ifndef WIDE
#define NAME(part) fm_cpu_avx2_##part
#endif
#define LANES 8
#define TILE_TOKENS 6
#define TILE_VECTORS 2
#define SUM_ROWS 6
#define SUM_VECTORS 2
#define VF_FMA(a, b, c) ((vf)_mm256_fmadd_ps((a), (b), (c)))
#define VF_MAX(a, b) ((vf)_mm256_max_ps((a), (b)))
#define VF_SUM(a) sum_lanes(a)
#define VU_OF_U8(p) ((vu)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p))))
#define VU_OF_U16(p) ((vu)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p))))

static inline float sum_lanes(__m256 a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

static inline void widen_fp16(float *to, const uint16_t *from) {
  _mm256_store_ps(to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)));
}

static inline void narrow_fp16(uint16_t *to, __m256 value) {
  _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

#include "cpu/elements_template.h"
#include "cpu/step_template.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
