/* cpu.c - see cpu.h. */
#include "attention/cpu.h"

#include <math.h>
#include <string.h>

fm_rows fm_rows_of(const fm_attention *attention, int32_t tile) {
  const fm_tiling *tiling = &attention->tiling;
  const fm_tile_index at = fm_tile_at(&attention->work, tiling, tile);
  const int32_t request = at.request, block = at.in_head;
  fm_rows rows = {
      .request = request,
      .kv_head = at.kv_head,
      .queries = fm_query_range_of(&attention->work, request),
      .first_token = block / tiling->head_chunks * tiling->block_tokens,
      .first_head = block % tiling->head_chunks * tiling->block_heads,
  };
  rows.tokens = (int32_t)fm_max64(0, fm_min32(tiling->block_tokens, rows.queries.count - rows.first_token));
  rows.heads = fm_min32(tiling->block_heads, tiling->group - rows.first_head);
  rows.count = rows.tokens * rows.heads;
  rows.first_item = fm_first_item(&attention->work, tiling->unit, rows.request);
  rows.length = rows.first_item + fm_length_of(&attention->work, tiling->unit, rows.request);
  return rows;
}

int64_t fm_row_bound(const fm_attention *attention, const fm_rows *rows, int32_t token) {
  return fm_attended(&attention->mask, rows->request, rows->length, rows->queries.count, token);
}

/* Index along the token axis of q, out and lse. */
static int32_t token_of(const fm_rows *rows, int32_t row) {
  return rows->queries.begin + rows->first_token + row / rows->heads;
}

static int32_t head_of(const fm_attention *attention, const fm_rows *rows, int32_t row) {
  const int32_t in_group = rows->first_head + row % rows->heads;
  return rows->kv_head * attention->tiling.group + in_group;
}

int64_t fm_row_offset(const fm_attention *attention, const fm_rows *rows, int32_t row, const int64_t stride[3]) {
  return rows->request * stride[0] + token_of(rows, row) * stride[1] + head_of(attention, rows, row) * stride[2];
}

/* What an attention sink leaves of a row: the share that its values have in the sum of the softmax. */
static float share_of_values(const fm_attention *attention, const fm_rows *rows, int32_t row, double lse) {
  const float *sink = attention->output.sink;
  return sink == NULL ? 1.0f : (float)(1 / (1 + exp((double)sink[head_of(attention, rows, row)] - lse)));
}

void fm_write_row(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows, int32_t row,
                  const float *values, float scale, double lse) {
  const fm_output *output = &attention->output;
  const int32_t bytes = fm_dtype_bytes(output->dtype);
  char *out = (char *)output->out + fm_row_offset(attention, rows, row, output->out_stride) * bytes;
  scale *= share_of_values(attention, rows, row, lse) * output->value_scale;
  if (values == NULL)
    memset(out, 0, (size_t)attention->d_v * (size_t)bytes);
  else
    elements->narrow[output->dtype](out, values, scale, attention->d_v);
  if (output->lse == NULL) return;
  if (output->lse_base2) lse /= M_LN2;
  const int64_t *stride = output->lse_stride;
  float *row_lse = output->lse + rows->request * stride[0] + head_of(attention, rows, row) * stride[1] +
                   token_of(rows, row) * stride[2];
  *row_lse = values == NULL ? output->empty_lse : (float)lse;
}
