/* piece.c - attention of one piece: the rows of a tile over a range of its tokens, with an online softmax in float32.
 */
#include <math.h>
#include <string.h>

#include "ops/dense_decode/piece.h"

enum { AHEAD = 6 }; /* tokens between fetching a KV row into the cache and using it: 7 KB in 16-bit types */

static int32_t padded_rows(const fm_cpu_kernels *kernels, const fm_rows *rows) {
  return (rows->count + kernels->lanes - 1) / kernels->lanes * kernels->lanes;
}

static const void *query_at(const fm_dense_decode *decode, const fm_rows *rows, int32_t row) {
  const fm_paged *paged = &decode->paged;
  const int64_t element = fm_row_offset(&decode->attention, rows, row, paged->q_stride);
  return (const char *)paged->q + element * fm_dtype_bytes(paged->q_dtype);
}

static void load_queries(const fm_dense_decode *decode, const fm_cpu_kernels *kernels, const fm_cpu_scratch *scratch,
                         const fm_rows *rows) {
  const fm_paged *paged = &decode->paged;
  const int32_t padded = padded_rows(kernels, rows);
  memset(scratch->queries, 0, sizeof(float) * FM_CPU_KEY_STRIDE * (size_t)padded);
  for (int32_t row = 0; row < rows->count; row++) {
    /* The buffer of keys is not in use yet. */
    kernels->widen[paged->q_dtype](scratch->keys, query_at(decode, rows, row), paged->d_qk);
    kernels->pack_query(scratch, scratch->keys, row, rows->count);
  }
}

static void reset_sums(const fm_cpu_kernels *kernels, const fm_cpu_scratch *scratch, const fm_rows *rows) {
  const int32_t padded = padded_rows(kernels, rows);
  memset(scratch->sums, 0, sizeof(float) * FM_CPU_SUM_STRIDE * (size_t)padded);
  memset(scratch->row_sum, 0, sizeof(float) * (size_t)padded);
  for (int32_t row = 0; row < padded; row++) scratch->row_max[row] = -INFINITY;
}

/* Page of the cache that holds page `page` of the request; NULL: outside the cache, a page of zeros. */
static const char *page_of(const fm_dense_decode *decode, const fm_rows *rows, int64_t page) {
  const fm_paged *paged = &decode->paged;
  const int32_t block = paged->block_table[rows->request * paged->block_table_stride + page];
  if (block < 0 || block >= paged->num_blocks) return NULL;
  const int64_t element = block * paged->cache_stride[0] + rows->kv_head * paged->cache_stride[2];
  return (const char *)paged->cache + element * fm_dtype_bytes(paged->cache_dtype);
}

/* Walks over the KV rows of a request in token order. */
typedef struct key_cursor {
  int64_t token, in_page;
  const char *page;
} key_cursor;

static key_cursor cursor_at(const fm_dense_decode *decode, const fm_rows *rows, int64_t token, int64_t end) {
  const bool inside = token < end;
  return (key_cursor){token, token % decode->paged.page_size,
                      inside ? page_of(decode, rows, token / decode->paged.page_size) : NULL};
}

/* The row at the cursor, which moves on; NULL: zeros. Looks no page up at or beyond `end`. */
static inline const char *next_key(const fm_dense_decode *decode, const fm_rows *rows, key_cursor *cursor,
                                   int64_t stride, int64_t end) {
  const char *row = cursor->page == NULL ? NULL : cursor->page + cursor->in_page * stride;
  cursor->token++;
  if (++cursor->in_page == decode->paged.page_size) *cursor = cursor_at(decode, rows, cursor->token, end);
  return row;
}

/* Tokens [token, token + count) to scratch->keys. Rows a few tokens ahead, up to `end`, are fetched into the cache on
 * the way: the hardware does not see that page and row strides continue beyond a 4 KiB page of memory. */
static void load_keys(const fm_dense_decode *decode, const fm_cpu_kernels *kernels, const fm_cpu_scratch *scratch,
                      const fm_rows *rows, int64_t token, int32_t count, int64_t end) {
  const fm_paged *paged = &decode->paged;
  const int32_t d_qk = paged->d_qk, bytes = d_qk * fm_dtype_bytes(paged->cache_dtype);
  const int64_t stride = paged->cache_stride[1] * fm_dtype_bytes(paged->cache_dtype);
  key_cursor here = cursor_at(decode, rows, token, end), ahead = cursor_at(decode, rows, token + AHEAD, end);
  for (float *keys = scratch->keys; keys < scratch->keys + count * FM_CPU_KEY_STRIDE; keys += FM_CPU_KEY_STRIDE) {
    if (ahead.token < end) {
      const char *soon = next_key(decode, rows, &ahead, stride, end);
      for (int32_t i = 0; soon != NULL && i < bytes; i += 64) __builtin_prefetch(soon + i, 0, 3);
    }
    const char *row = next_key(decode, rows, &here, stride, end);
    if (row == NULL)
      memset(keys, 0, sizeof(float) * (size_t)d_qk);
    else
      kernels->widen[paged->cache_dtype](keys, row, d_qk);
  }
}

/* One step: tokens [token, token + count) are in scratch->keys. Where a token's bound falls into them, the rows behind
 * it get weight 0 and, since the slots they do not attend may hold NaN, only the values in front of it. */
static void attend_keys(const fm_dense_decode *decode, const fm_cpu_kernels *kernels, const fm_cpu_scratch *scratch,
                        const fm_rows *rows, int64_t token, int32_t count) {
  kernels->logits(scratch, rows->count, count);
  const bool all = fm_row_bound(&decode->attention, rows, rows->first_token) >= token + count;
  if (all) {
    kernels->softmax(scratch, rows->count, count, decode->scale_log2);
    kernels->accumulate(scratch, 0, rows->count, count);
    return;
  }
  int32_t attended[FM_CPU_BLOCK_ROWS]; /* of `count`, by query token */
  for (int32_t s = 0; s < rows->tokens; s++) {
    attended[s] =
        (int32_t)fm_max64(0, fm_min64(count, fm_row_bound(&decode->attention, rows, rows->first_token + s) - token));
    for (int32_t t = attended[s]; t < count; t++)
      for (int32_t h = 0; h < rows->heads; h++)
        scratch->weights[t * FM_CPU_WEIGHT_STRIDE + s * rows->heads + h] = -INFINITY;
  }
  kernels->softmax(scratch, rows->count, count, decode->scale_log2);
  for (int32_t s = 0; s < rows->tokens; s++)
    if (attended[s] > 0) kernels->accumulate(scratch, s * rows->heads, rows->heads, attended[s]);
}

/* The rows' sums become normalised results in out and lse, or in a partial slot. A row that attends to none of the
 * tokens from `begin` is empty. */
static void write_rows(const fm_dense_decode *decode, const fm_cpu_kernels *kernels, const fm_cpu_scratch *scratch,
                       const fm_rows *rows, int64_t begin, int64_t slot) {
  const fm_attention *attention = &decode->attention;
  const int32_t d_v = attention->d_v;
  for (int32_t row = 0; row < rows->count; row++) {
    const bool empty = fm_row_bound(attention, rows, rows->first_token + row / rows->heads) <= begin;
    const float *sums = empty ? NULL : scratch->sums + row * FM_CPU_SUM_STRIDE;
    const float normalise = empty ? 0 : 1.0f / scratch->row_sum[row];
    const double lse =
        empty ? -INFINITY : (double)scratch->row_max[row] * decode->softmax_scale + log(scratch->row_sum[row]);
    if (slot < 0) {
      fm_write_row(attention, kernels, rows, row, sums, normalise, lse);
      continue;
    }
    const int64_t at = slot * attention->tiling.block_rows + row;
    attention->partials.facts[at] = (float)(lse / M_LN2);
    if (!empty) kernels->narrow[FM_FP32]((float *)attention->partials.rows + at * d_v, sums, normalise, d_v);
  }
}

void fm_attend_piece(const fm_dense_decode *decode, const fm_cpu_kernels *kernels, fm_cpu_scratch *scratch,
                     int32_t tile, int32_t first, int32_t last, int64_t slot) {
  const fm_rows rows = fm_rows_of(&decode->attention, tile);
  if (rows.count == 0) return;
  const int64_t unit = decode->attention.tiling.unit, begin = first * unit;
  int64_t end =
      fm_row_bound(&decode->attention, &rows, rows.first_token + rows.tokens - 1); /* the last token sees most */
  if (last >= 0) end = fm_min64(end, last * unit);
  if (begin < end) {
    /* A thread often takes several pieces of a tile. */
    if (scratch->tile != tile) load_queries(decode, kernels, scratch, &rows);
    scratch->tile = tile;
    reset_sums(kernels, scratch, &rows);
  }
  const int32_t step = fm_cpu_step_tokens(rows.count);
  for (int64_t token = begin; token < end; token += step) {
    const int32_t count = (int32_t)fm_min64(step, end - token);
    load_keys(decode, kernels, scratch, &rows, token, count, end);
    attend_keys(decode, kernels, scratch, &rows, token, count);
  }
  write_rows(decode, kernels, scratch, &rows, begin, slot);
}
