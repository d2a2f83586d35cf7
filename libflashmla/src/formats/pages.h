/* pages.h - the pages of a KV cache in one of the formats, as an argument of a call and as backends see them. */
#ifndef FLASHMLA_FORMATS_PAGES_H_
#define FLASHMLA_FORMATS_PAGES_H_

#include "core/operation.h"
#include "formats/formats.h"

/* Axes of the tensor; what moves rows in or out has its own behind them. */
enum { FM_PAGES_BLOCKS = FM_OWN_AXES, FM_PAGES_SIZE, FM_PAGES_HEADS, FM_PAGES_ROW, FM_ROWS_AXES };
#define FM_PAGES_AXES                                                                \
  [FM_PAGES_BLOCKS] = {"num_blocks", false}, [FM_PAGES_SIZE] = {"page_size", false}, \
  [FM_PAGES_HEADS] = {"h_kv", false}, [FM_PAGES_ROW] = {"row", false}
/* Bits of fm_argument.paged: the caches of a call, each of a format of its own, which a field `format` names. */
enum { FM_MAIN_PAGES = 1, FM_EXTRA_PAGES = 2 };
#define FM_OF_FORMAT(which, format) .paged = which, .packed_by = #format
#define FM_PAGES_OF(type, field, which, format, blocks, size, row)                                       \
  FM_FIELD(type, field), .rank = 4, .axes = {blocks, size, FM_PAGES_HEADS, row}, .dtypes = FM_ANY_FLOAT, \
      .alignment = FM_VECTOR_BYTES, FM_OF_FORMAT(which, format)
#define FM_PAGES_FIELDS(type, field) \
  FM_PAGES_OF(type, field, FM_MAIN_PAGES, kv_format, FM_PAGES_BLOCKS, FM_PAGES_SIZE, FM_PAGES_ROW)

/* In read_form: the format that a field of the call names, of the cache `which`. */
flashmla_status fm_add_format(const char *field, int32_t kv_format, uint8_t which, fm_form *form);

/* Distances are in bytes. */
typedef struct fm_pages {
  const fm_format *format;
  int32_t columns; /* of a row */
  fm_dtype dtype;  /* of its columns where the format does not quantise */
  int32_t num_blocks, page_size;
  char *data;
  int64_t block_step, row_step, head_step;
  int64_t scales_at;    /* in a page */
  const float *descale; /* of a format whose scale the call has; NULL: 1 */
} fm_pages;

/* Rules of check_shapes on the tensor `row` of the table, with what they tell. `heads`: there may be several KV heads
 * where the format does not quantise. */
flashmla_status fm_check_pages(const fm_call *call, int32_t row, int32_t kv_format, bool heads, fm_pages *pages);
/* The scale of a cache, in row `row` of the table, is given only where its format has none of its own. */
#define FM_DESCALE_FIELDS(type, field)                                                                        \
  FM_FIELD(type, field), .rank = 1, .axes = {FM_ONE}, .dtypes = FM_ONLY(FM_FP32), .alignment = sizeof(float), \
      .free_innermost = true, .optional = true
flashmla_status fm_check_descale(const fm_call *call, int32_t row, const fm_format *format);
/* Of pages in host memory. */
static inline float fm_descale_of(const fm_pages *pages) { return pages->descale != NULL ? *pages->descale : 1.0f; }
/* Strides and address, of a call that passed. */
void fm_bind_pages(const fm_call *call, int32_t row, fm_pages *pages);

/* Bytes of a token of one KV head, its scales among them. */
static inline int64_t fm_token_bytes_of(const fm_pages *pages) {
  if (!fm_quantizes(pages->format)) return (int64_t)pages->columns * fm_dtype_bytes(pages->dtype);
  return pages->format->token_bytes > 0 ? pages->format->token_bytes : pages->columns;
}

static inline int64_t fm_slots_of(const fm_pages *pages) { return (int64_t)pages->num_blocks * pages->page_size; }

/* Where a token lies. */
typedef struct fm_token {
  char *row, *scales;
} fm_token;
static inline fm_token fm_token_in(const fm_pages *pages, char *page, int64_t place) {
  return (fm_token){page + place * pages->row_step, page + pages->scales_at + place * pages->format->scales_step};
}
static inline fm_token fm_token_at(const fm_pages *pages, int64_t block, int64_t place) {
  return fm_token_in(pages, pages->data + block * pages->block_step, place);
}

#endif /* FLASHMLA_FORMATS_PAGES_H_ */
