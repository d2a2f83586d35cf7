/* cpu_tokens.h - tokens in pages of host memory as rows of elements. */
#ifndef FLASHMLA_FORMATS_CPU_TOKENS_H_
#define FLASHMLA_FORMATS_CPU_TOKENS_H_

#include "cpu/isa.h"
#include "formats/pages.h"

/* A token of pages that are quantised: each column is code * scale, rounded to float32 and then to `dtype`; `descale`:
 * of a format whose scale the call has. The thread must not flush subnormal numbers. */
void fm_dequantize_token(const fm_pages *pages, fm_token from, float descale, const fm_cpu_elements *elements,
                         fm_dtype dtype, void *to);
/* `count` codes, a multiple of FM_LANE_COLUMNS, with one scale; likewise. */
void fm_decode_codes(const uint8_t *codes, int32_t count, float descale, const fm_cpu_elements *elements,
                     fm_dtype dtype, void *to);

#endif /* FLASHMLA_FORMATS_CPU_TOKENS_H_ */
