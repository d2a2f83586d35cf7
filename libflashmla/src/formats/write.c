/* write.c - the rules of calls that write rows into a cache, and what backends get of them. */
#include "formats/write.h"

#include "observer/facts.h"

flashmla_status fm_write_form(fm_write_scalars scalars, fm_form *form) {
  static const char *const scales[] = {[FM_SCALE_NONE] = "no scales",
                                       [FM_SCALE_E8M0] = "powers of two for scales",
                                       [FM_SCALE_CALL] = "the scale that it is given"};
  const fm_format *format;
  FM_TRY(fm_find_format("kv_format", scalars.kv_format, &format));
  if ((scalars.flags & FLASHMLA_UNROUNDED_SCALES) != 0 && format->scale != FM_SCALE_FP32)
    return fm_fail(FLASHMLA_ERROR_VALUE,
                   "{params.flags has FLASHMLA_UNROUNDED_SCALES|unrounded_scales is True}; format \"%s\" has %s",
                   format->name, scales[format->scale]);
  form->packed = fm_quantizes(format) ? FM_MAIN_PAGES : 0;
  return FLASHMLA_OK;
}

static flashmla_status check_columns(const fm_call *call, const fm_write *write) {
  const int32_t latent = call->extents[FM_D_LATENT], rope = call->extents[FM_D_ROPE], columns = write->pages.columns;
  const char *pages = call->tensors.rows[FM_WRITE_PAGES].name;
  if ((int64_t)latent + rope != columns)
    return fm_fail(FLASHMLA_ERROR_SHAPE,
                   "latent.shape[1] (d_latent) is %d and %s (d_rope) %d; a row of %s in format \"%s\" has %d columns",
                   latent, call->tensors.given[FM_WRITE_ROPE] != NULL ? "rope.shape[1]" : "without rope", rope, pages,
                   write->pages.format->name, columns);
  const int32_t multiple = fm_quantizes(write->pages.format) ? FM_LANE_COLUMNS : FM_ROW_COLUMNS;
  if (latent % multiple != 0)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "latent.shape[1] (d_latent) is %d; supported are multiples of %d",
                   latent, multiple);
  if (call->cuda && fm_quantizes(write->pages.format) && write->dtype == FM_FP32)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED,
                   "latent.dtype is float32; supported on CUDA in format \"%s\" are bfloat16 and float16",
                   write->pages.format->name);
  if (!fm_quantizes(write->pages.format) && write->dtype != write->pages.dtype)
    return fm_fail(FLASHMLA_ERROR_DTYPE, "latent.dtype is %s, %s.dtype is %s; they must be equal in format \"%s\"",
                   fm_dtype_name((int32_t)write->dtype), pages, fm_dtype_name((int32_t)write->pages.dtype),
                   write->pages.format->name);
  return FLASHMLA_OK;
}

flashmla_status fm_check_write(fm_call *call, fm_write_scalars scalars, fm_write *write) {
  FM_TRY(fm_check_pages(call, FM_WRITE_PAGES, scalars.kv_format, false, &write->pages));
  write->dtype = fm_dtype_of(fm_tensor_at(&call->tensors, FM_WRITE_LATENT, 0)->dtype);
  FM_TRY(check_columns(call, write));
  FM_TRY(fm_check_descale(call, FM_WRITE_DESCALE, write->pages.format));
  write->unrounded = (scalars.flags & FLASHMLA_UNROUNDED_SCALES) != 0;
  write->num_tokens = call->extents[FM_TOKENS];
  write->latent_bytes = call->extents[FM_D_LATENT] * fm_dtype_bytes(write->dtype);
  write->rope_bytes = call->extents[FM_D_ROPE] * fm_dtype_bytes(write->dtype);
  write->num_threads = scalars.num_threads;
  call->empty = write->num_tokens == 0;
  return FLASHMLA_OK;
}

void fm_bind_write(const fm_call *call, void *stream, fm_write *write) {
  const fm_view *latent = &call->views[FM_WRITE_LATENT], *rope = &call->views[FM_WRITE_ROPE];
  fm_bind_pages(call, FM_WRITE_PAGES, &write->pages);
  write->pages.descale = call->views[FM_WRITE_DESCALE].data;
  write->latent = latent->data;
  write->rope = rope->data;
  if (!call->again) {
    write->latent_step = latent->stride[0] * fm_dtype_bytes(write->dtype);
    write->rope_step = rope->stride[0] * fm_dtype_bytes(write->dtype);
  }
  write->stream = stream;
}

void fm_describe_write(const fm_call *call, const void *state, fm_facts *facts) {
  const fm_write *write = state;
  (void)call;
  facts->record.kv_format = fm_format_number(write->pages.format);
  facts->items[0] =
      (fm_items_read){.requests = 1, .capacity = write->num_tokens, .bytes = fm_token_bytes_of(&write->pages)};
}
