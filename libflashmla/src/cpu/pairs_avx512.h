/* pairs_avx512.h - what step_bf16.h needs, in AVX-512 BF16. */

/* VCVTNE2PS2BF16 puts one vector behind the other. */
INLINE vu bf16_pairs(__m512 low, __m512 high) {
  static const uint16_t order[2 * LANES]
      __attribute__((aligned(64))) = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (vu)_mm512_permutexvar_epi16(_mm512_load_si512(order), (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
#define BF16_PAIRS(low, high) bf16_pairs((__m512)(low), (__m512)(high))
