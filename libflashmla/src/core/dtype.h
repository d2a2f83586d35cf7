/* dtype.h - the element types of tensors: their names, sizes and codes stand here once. */
#ifndef FLASHMLA_CORE_DTYPE_H_
#define FLASHMLA_CORE_DTYPE_H_

#include <stdbool.h>
#include <stdint.h>

#include "core/text.h"
#include "flashmla/flashmla.h"

/* The numbers of the floats are known to kernels (dsl_kernels/core) and index tables. */
typedef enum fm_dtype {
  FM_BF16 = 0,
  FM_FP16 = 1,
  FM_FP32 = 2,
  FM_INT32 = 3,
  FM_INT64 = 4,
  FM_UINT8 = 5,
  FM_INT8 = 6,
  FM_E4M3 = 7,
  FM_DTYPES
} fm_dtype;
enum { FM_FLOATS = FM_FP32 + 1 };
/* A set of element types. */
#define FM_ONLY(dtype) (1u << (dtype))
#define FM_ANY_FLOAT (FM_ONLY(FM_BF16) | FM_ONLY(FM_FP16) | FM_ONLY(FM_FP32))
#define FM_ANY_BYTE (FM_ONLY(FM_UINT8) | FM_ONLY(FM_INT8) | FM_ONLY(FM_E4M3)) /* as callers name bytes of a cache */

/* "bfloat16", ...; "any" for what is no fm_dtype. */
const char *fm_dtype_name(int32_t dtype);
int32_t fm_dtype_bytes(fm_dtype dtype);
/* FM_DTYPES for one that the library does not know. */
fm_dtype fm_dtype_of(DLDataType dtype);

/* Any DLDataType in words. */
fm_text fm_describe_dtype(DLDataType dtype);
/* A set in words: "bfloat16, float16 or float32". */
fm_text fm_describe_dtypes(uint32_t set);

#endif /* FLASHMLA_CORE_DTYPE_H_ */
