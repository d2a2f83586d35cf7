/* traps.h - for tests of floating-point exceptions. Run as it is, a program's calls are given NaN and overflows, and a
 * caller that traps exceptions must not notice. Run with an argument, by a test that has taken the library's own
 * floating-point mode out of it, its calls are given finite numbers, and nothing must trap in any thread: not by what
 * the caller did not give, as padding of vectors that was never written. */
#ifndef TRAPS_H_
#define TRAPS_H_

#include <fenv.h>
#include <stdbool.h>

#include "check.h"

enum {
  TRAPS = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW,
  POISON = 0x7fa0 /* signalling NaN of bfloat16, and twice of
                     float32 */
};

static bool finite_only;

static inline void poison(void *memory, size_t bytes) {
  uint16_t *at = memory;
  for (size_t i = 0; i < bytes / sizeof *at; ++i) at[i] = POISON;
}

/* In the place of the C library's: all memory begins as NaN, as what others left there might be. */
__attribute__((visibility("default"))) void *aligned_alloc(size_t alignment, size_t bytes) {
  void *made = NULL;
  if (posix_memalign(&made, alignment, bytes) != 0) return NULL;
  poison(made, bytes);
  return made;
}

static inline void enable_traps(int arguments) {
  finite_only = arguments > 1;
  feclearexcept(FE_ALL_EXCEPT);
  feenableexcept(TRAPS); /* where it can; the flags tell, too */
}

static inline void check_no_exception(void) { CHECK(fetestexcept(TRAPS) == 0); }

/* Element i of a tensor; exact in any type for small multiples of 1/8. */
static inline void put(const DLTensor *tensor, int64_t i, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (tensor->dtype.bits == 32)
    ((float *)tensor->data)[i] = value;
  else if ((int)tensor->dtype.code == kDLBfloat)
    ((uint16_t *)tensor->data)[i] = (uint16_t)(bits >> 16);
  else
    ((uint16_t *)tensor->data)[i] =
        (uint16_t)((bits >> 16 & 0x8000) | (value == 0 ? 0 : ((bits & 0x7fffffff) >> 13) - (112 << 10)));
}

static inline void put_nan(const DLTensor *tensor, int64_t i) {
  const uint32_t bits = tensor->dtype.bits == 16 && (int)tensor->dtype.code == kDLFloat ? 0x7d00 : POISON;
  if (tensor->dtype.bits == 32)
    ((uint32_t *)tensor->data)[i] = bits << 16;
  else
    ((uint16_t *)tensor->data)[i] = (uint16_t)bits;
}

static const char *const isas[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};
enum { ISAS = sizeof isas / sizeof isas[0] };
static const DLDataType dtypes[] = {{kDLBfloat, 16, 1}, {kDLFloat, 16, 1}, {kDLFloat, 32, 1}};
enum { DTYPES = sizeof dtypes / sizeof dtypes[0] };

#endif /* TRAPS_H_ */
