/* read.c - the rules of calls that read rows from a cache, and what backends get of them. */
#include "formats/read.h"

#include "observer/facts.h"

flashmla_status fm_check_read(fm_call *call, int32_t kv_format, int32_t num_threads, fm_read *read) {
  FM_TRY(fm_check_pages(call, FM_READ_PAGES, kv_format, false, &read->pages));
  const fm_format *format = read->pages.format;
  FM_TRY(fm_check_descale(call, FM_READ_DESCALE, format));
  const int32_t columns = call->extents[FM_READ_COLUMNS];
  if (columns != read->pages.columns)
    return fm_fail(FLASHMLA_ERROR_SHAPE, "out.shape[1] (d_qk) is %d; a row of kv_cache in format \"%s\" has %d columns",
                   columns, format->name, read->pages.columns);
  read->dtype = fm_dtype_of(fm_tensor_at(&call->tensors, FM_READ_OUT, 0)->dtype);
  if (!fm_quantizes(format) && read->dtype != read->pages.dtype)
    return fm_fail(FLASHMLA_ERROR_DTYPE, "out.dtype is %s, kv_cache.dtype is %s; they must be equal in format \"%s\"",
                   fm_dtype_name((int32_t)read->dtype), fm_dtype_name((int32_t)read->pages.dtype), format->name);
  read->num_tokens = call->extents[FM_READ_TOKENS];
  read->num_threads = num_threads;
  call->empty = read->num_tokens == 0;
  return FLASHMLA_OK;
}

void fm_bind_read(const fm_call *call, void *stream, fm_read *read) {
  const fm_view *out = &call->views[FM_READ_OUT];
  fm_bind_pages(call, FM_READ_PAGES, &read->pages);
  read->pages.descale = call->views[FM_READ_DESCALE].data;
  read->out = out->data;
  if (!call->again) read->out_step = out->stride[0] * fm_dtype_bytes(read->dtype);
  read->stream = stream;
}

void fm_describe_read(const fm_call *call, const void *state, fm_facts *facts) {
  const fm_read *read = state;
  (void)call;
  facts->record.kv_format = fm_format_number(read->pages.format);
  facts->items[0] =
      (fm_items_read){.requests = 1, .capacity = read->num_tokens, .bytes = fm_token_bytes_of(&read->pages)};
}
