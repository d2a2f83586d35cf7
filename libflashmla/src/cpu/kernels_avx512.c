/* kernels_avx512.c - micro-kernels for x86-64 CPUs with AVX-512 F, BW, DQ and VL. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/isa.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define NAME(part) fm_cpu_avx512_##part
#define LANES 16
#define TILE_TOKENS 6
#define TILE_VECTORS 4
#define SUM_ROWS 6
#define SUM_VECTORS 4
#define VF_FMA(a, b, c) ((vf)_mm512_fmadd_ps((a), (b), (c)))
#define VF_MAX(a, b) ((vf)_mm512_max_ps((a), (b)))
#define VF_SUM(a) _mm512_reduce_add_ps(a)
#define VU_OF_U16(p) ((vu)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p))))

static inline void widen_fp16(float *to, const uint16_t *from) {
  _mm512_store_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)));
}

static inline void narrow_fp16(uint16_t *to, __m512 value) {
  _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

#include "cpu/elements_template.h"
#include "cpu/step_template.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
