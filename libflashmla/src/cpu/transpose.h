/* transpose.h - the transpose of 16 vectors of 16 elements. Included behind elements_template.h. */

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector((a), (b), __VA_ARGS__)
#endif
#endif
#if !defined(SHUFFLE)
#define SHUFFLE(a, b, ...) __builtin_shuffle((a), (b), (vi){__VA_ARGS__})
#endif

/* 16 vectors of 16 elements. */
INLINE void transpose(vu m[LANES]) {
  vu n[LANES];
  for (int i = 0; i < LANES; i += 2) { /* pairs of rows, elements interleaved within 128 bits */
    n[i] = SHUFFLE(m[i], m[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    n[i + 1] = SHUFFLE(m[i], m[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  for (int i = 0; i < LANES; i += 4) { /* four rows: column 4 l + k of them in the 128 bits l of m[i + k] */
    for (int k = 0; k < 2; k++) {
      m[i + 2 * k] = SHUFFLE(n[i + k], n[i + k + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      m[i + 2 * k + 1] = SHUFFLE(n[i + k], n[i + k + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
  }
  for (int i = 0; i < LANES; i += 8) { /* eight rows: n[i + k] has columns k and k + 8, n[i + k + 4] the next four */
    for (int k = 0; k < 4; k++) {
      n[i + k] = SHUFFLE(m[i + k], m[i + k + 4], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
      n[i + k + 4] = SHUFFLE(m[i + k], m[i + k + 4], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
  }
  for (int k = 0; k < 8; k++) {
    m[k] = SHUFFLE(n[k], n[k + 8], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    m[k + 8] = SHUFFLE(n[k], n[k + 8], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  }
}
