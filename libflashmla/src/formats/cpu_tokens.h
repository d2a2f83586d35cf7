/* cpu_tokens.h - tokens in pages of host memory as rows of elements. */
#ifndef FLASHMLA_FORMATS_CPU_TOKENS_H_
#define FLASHMLA_FORMATS_CPU_TOKENS_H_

#include "cpu/isa.h"
#include "formats/pages.h"

/* A token of a format that quantises: each column is code * scale, rounded to float32 and then to `dtype`. The thread
 * must not flush subnormal numbers. */
void fm_dequantize_token(const fm_format *format, fm_token from, const fm_cpu_elements *elements, fm_dtype dtype,
                         void *to);

#endif /* FLASHMLA_FORMATS_CPU_TOKENS_H_ */
