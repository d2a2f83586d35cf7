/* arith.h - integer arithmetic that several files need. */
#ifndef FLASHMLA_CORE_ARITH_H_
#define FLASHMLA_CORE_ARITH_H_

#include <stdint.h>

static inline int32_t fm_min32(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t fm_max32(int32_t a, int32_t b) { return a > b ? a : b; }
static inline int64_t fm_min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t fm_max64(int64_t a, int64_t b) { return a > b ? a : b; }
/* For low <= high. */
static inline int64_t fm_clamp64(int64_t a, int64_t low, int64_t high) { return a < low ? low : a > high ? high : a; }
/* For a >= 0, b > 0. */
static inline int64_t fm_ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

#endif /* FLASHMLA_CORE_ARITH_H_ */
