/* cpu_tokens.c - see cpu_tokens.h. */
#include "formats/cpu_tokens.h"

#include "core/arith.h"
#include "formats/codes.h"

enum { AT_ONCE = 64 };

void fm_decode_codes(const uint8_t *codes, int32_t count, float descale, const fm_cpu_elements *elements,
                     fm_dtype dtype, void *to) {
  float columns[AT_ONCE] __attribute__((aligned(64)));
  for (int32_t first = 0; first < count; first += AT_ONCE) {
    const int32_t some = fm_min32(AT_ONCE, count - first);
    elements->decode_e4m3(columns, codes + first, descale, some);
    elements->narrow[dtype]((char *)to + (size_t)first * (size_t)fm_dtype_bytes(dtype), columns, 1.0f, some);
  }
}

static void decode_tiles(const fm_format *format, fm_token from, const fm_cpu_elements *elements, fm_dtype dtype,
                         void *to) {
  float columns[FM_MOST_FORMAT_COLUMNS] __attribute__((aligned(64)));
  for (int32_t tile = 0; tile * format->tile < format->quantized; ++tile) {
    const float scale = format->scale == FM_SCALE_FP32 ? ((const float *)from.scales)[tile]
                                                       : fm_of_e8m0(((const uint8_t *)from.scales)[tile]);
    const int32_t first = tile * format->tile;
    elements->decode_e4m3(columns + first, (const uint8_t *)from.row + first, scale, format->tile);
  }
  const int32_t rope = format->columns - format->quantized;
  const uint16_t *bits = (const uint16_t *)(from.row + format->rope_at);
  for (int32_t i = 0; i < rope; ++i) columns[format->quantized + i] = fm_float_of((uint32_t)bits[i] << 16);
  elements->narrow[dtype](to, columns, 1.0f, format->columns);
  if (dtype == FM_BF16) /* bit by bit, NaN too */
    memcpy((char *)to + (size_t)format->quantized * sizeof(uint16_t), bits, (size_t)rope * sizeof(uint16_t));
}

void fm_dequantize_token(const fm_pages *pages, fm_token from, float descale, const fm_cpu_elements *elements,
                         fm_dtype dtype, void *to) {
  if (pages->format->scale == FM_SCALE_CALL)
    fm_decode_codes((const uint8_t *)from.row, pages->columns, descale, elements, dtype, to);
  else
    decode_tiles(pages->format, from, elements, dtype, to);
}
