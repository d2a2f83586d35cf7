/* formats.h - how a token lies in the KV cache: the facts of every format, which whoever writes or reads a cache
 * shares.
 *
 * A row of a token are its NoPE columns, then its RoPE columns. In a format that quantises the first `quantized`
 * columns are float8_e4m3fn codes, one byte each, from the first byte on; `tile` neighbours share a scale, and a column
 * is code * scale. The other columns are bfloat16. Where a page is split, the scales of all its tokens follow their
 * rows. Where the call has the one scale of all tokens, a row is as many codes as it has columns. */
#ifndef FLASHMLA_FORMATS_FORMATS_H_
#define FLASHMLA_FORMATS_FORMATS_H_

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"

typedef enum fm_scale {
  FM_SCALE_NONE, /* columns are elements of the cache's dtype */
  FM_SCALE_FP32,
  FM_SCALE_E8M0, /* float8_e8m0fnu: 2^(byte - 127), and 255 is NaN */
  FM_SCALE_CALL  /* one float32 of all tokens, an argument of the call */
} fm_scale;

enum {
  FM_MOST_FORMAT_COLUMNS = 576, /* of a row with scales */
  FM_ROW_COLUMNS = 8,           /* rows have a multiple of them: 16 bytes of a 2-byte type */
  FM_LANE_COLUMNS = 16          /* that are quantised at once, so codes are written 16 bytes at a time */
};

/* Sizes and places are in bytes. */
typedef struct fm_format {
  const char *name;
  fm_scale scale;
  int32_t columns;     /* 0: any number */
  int32_t quantized;   /* columns that are codes */
  int32_t tile;        /* columns of a scale */
  int32_t token_bytes; /* of a token in all: the innermost extent of the cache; 0: any number */
  int32_t row_bytes;   /* from row to row in a page, if token_bytes are known */
  int32_t rope_at;     /* in a row */
  bool split;          /* the scales of a page lie behind its rows */
  int32_t scales_at;   /* in a row, or from the end of the rows on */
  int32_t scales_step; /* from the scales of a token to those of the next */
} fm_format;

/* By its number in flashmla_kv_format; NULL: there is none. */
const fm_format *fm_format_at(int32_t number);
/* Its number. */
int32_t fm_format_number(const fm_format *format);
/* The format that a field of a call, `field`, names. */
flashmla_status fm_find_format(const char *field, int32_t number, const fm_format **format);
/* log2 of the groups of FM_LANE_COLUMNS columns that share a scale. */
static inline int32_t fm_tile_shift(const fm_format *format) {
  return format->tile > 0 ? __builtin_ctz((unsigned)(format->tile / FM_LANE_COLUMNS)) : 0;
}
static inline bool fm_quantizes(const fm_format *format) { return format->scale != FM_SCALE_NONE; }

#endif /* FLASHMLA_FORMATS_FORMATS_H_ */
