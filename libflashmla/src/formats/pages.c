/* pages.c - see pages.h. */
#include "formats/pages.h"

enum { BLOCKS, SIZE, HEADS, ROW /* axes of the tensor */ };

flashmla_status fm_add_format(const char *field, int32_t kv_format, uint8_t which, fm_form *form) {
  const fm_format *format;
  FM_TRY(fm_find_format(field, kv_format, &format));
  if (fm_quantizes(format)) form->packed |= which;
  if (format->scale == FM_SCALE_CALL && which == FM_MAIN_PAGES) form->coded = true;
  return FLASHMLA_OK;
}

static flashmla_status check_row(const fm_argument *row, int32_t extent, const fm_format *format) {
  const int32_t multiple = fm_quantizes(format) ? FM_LANE_COLUMNS : FM_ROW_COLUMNS;
  if (format->token_bytes > 0 && extent != format->token_bytes)
    return fm_fail(FLASHMLA_ERROR_SHAPE, "%s.shape[3] is %d; a token of format \"%s\" has %d bytes", row->name, extent,
                   format->name, format->token_bytes);
  if (format->token_bytes == 0 && extent % multiple != 0)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "%s.shape[3] (row) is %d; supported are multiples of %d", row->name,
                   extent, multiple);
  return FLASHMLA_OK;
}

flashmla_status fm_check_pages(const fm_call *call, int32_t row, int32_t kv_format, bool heads, fm_pages *pages) {
  const fm_argument *rule = &call->tensors.rows[row];
  const fm_format *format = fm_format_at(kv_format);
  const int32_t *const extents = call->extents;
  const int32_t h_kv = extents[rule->axes[HEADS]], columns = extents[rule->axes[ROW]];
  if (h_kv != 1 && fm_quantizes(format))
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "%s.shape[2] (h_kv) is %d; supported in format \"%s\" is 1", rule->name,
                   h_kv, format->name);
  if (h_kv != 1 && !heads)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "%s.shape[2] (h_kv) is %d; supported is 1", rule->name, h_kv);
  FM_TRY(check_row(rule, columns, format));
  pages->format = format;
  pages->columns = format->columns > 0 ? format->columns : columns;
  pages->dtype = fm_dtype_of(fm_tensor_at(&call->tensors, row, 0)->dtype);
  pages->num_blocks = extents[rule->axes[BLOCKS]];
  pages->page_size = extents[rule->axes[SIZE]];
  return FLASHMLA_OK;
}

flashmla_status fm_check_descale(const fm_call *call, int32_t row, const fm_format *format) {
  if (call->tensors.given[row] == NULL || format->scale == FM_SCALE_CALL) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_VALUE, "%s is given; in format \"%s\" it must be left out",
                 call->tensors.rows[row].name, format->name);
}

void fm_bind_pages(const fm_call *call, int32_t row, fm_pages *pages) {
  const fm_format *format = pages->format;
  const fm_view *view = &call->views[row];
  const int64_t element_bytes = fm_dtype_bytes(pages->dtype);
  pages->data = view->data;
  if (call->again) return; /* strides are as they were */
  pages->block_step = view->stride[0] * element_bytes;
  pages->row_step = format->row_bytes;
  if (format->token_bytes == 0)
    pages->row_step = fm_quantizes(format) ? pages->columns : view->stride[1] * element_bytes;
  pages->head_step = view->stride[2] * element_bytes; /* of no use where there is one head */
  pages->scales_at = format->split ? (int64_t)pages->page_size * format->row_bytes : format->scales_at;
}
