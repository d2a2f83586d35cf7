/* tiles.h - a tile of columns to codes and a scale. The rule of the reference quantiser (FlashMLA,
 * tests/quant.py): scale = max(largest magnitude / 448, 1e-4), by default the power of two that is not below it; code =
 * e4m3(column / scale), both rounded to nearest. A tile with a NaN or an infinity is NaN as a whole. */
#ifndef FLASHMLA_FORMATS_TILES_H_
#define FLASHMLA_FORMATS_TILES_H_

#include "formats/formats.h"

/* `unrounded`: any float32 is a scale, not powers of two alone. Returns the scale. */
float fm_quantize_tile(uint8_t *restrict codes, const float *restrict columns, int32_t count, bool unrounded);
/* With a scale that is given: code = e4m3(column / scale), 448 for what is beyond it; NaN where the quotient is. */
void fm_encode_columns(uint8_t *restrict codes, const float *restrict columns, int32_t count, float scale);

#endif /* FLASHMLA_FORMATS_TILES_H_ */
