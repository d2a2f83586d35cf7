/* float_mode.h - how a thread computes in floating point: rounding, traps, subnormal numbers. The caller may have
 * changed any of it, and its results must not differ for that, nor may a value trap that the caller did not give. So a
 * call computes in a mode of its own, and leaves that of the caller, with its exception flags, as it was. */
#ifndef FLASHMLA_CORE_FLOAT_MODE_H_
#define FLASHMLA_CORE_FLOAT_MODE_H_

#include <stdbool.h>
#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <fenv.h>
#endif

/* A mode with the exception flags that were raised in it. */
typedef struct fm_float_mode {
#if defined(__x86_64__)
  uint32_t mxcsr;
#elif defined(__aarch64__)
  uint64_t fpcr, fpsr;
#else
  fenv_t environment;
#endif
} fm_float_mode;

/* From here on this thread rounds to nearest and nothing traps. `flush`: subnormal numbers, given and computed, count
 * as 0, since many CPUs take a hundred times as long for one; but float16 is converted exactly. Returns the mode before
 * it. */
static inline fm_float_mode fm_set_float_mode(bool flush) {
  fm_float_mode before;
#if defined(__x86_64__)
  enum { ALL_MASKED = 0x1f80, FLUSH_RESULTS = 0x8000, FLUSH_OPERANDS = 0x0040 };
  before.mxcsr = _mm_getcsr();
  _mm_setcsr(flush ? ALL_MASKED | FLUSH_RESULTS | FLUSH_OPERANDS : ALL_MASKED);
#elif defined(__aarch64__)
  const uint64_t fpcr = flush ? UINT64_C(1) << 24 : 0;
  __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(before.fpcr), "=r"(before.fpsr));
  __asm__ volatile("msr fpcr, %0" : : "r"(fpcr) : "memory");
#else
  (void)flush;
  feholdexcept(&before.environment);
  fesetround(FE_TONEAREST);
#endif
  return before;
}

static inline void fm_restore_float_mode(fm_float_mode mode) {
#if defined(__x86_64__)
  _mm_setcsr(mode.mxcsr);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(mode.fpcr), "r"(mode.fpsr) : "memory");
#else
  fesetenv(&mode.environment);
#endif
}

#endif /* FLASHMLA_CORE_FLOAT_MODE_H_ */
