/* cpu_piece.c - attention of a piece: the rows of a tile over a range of its KV items, step by step. */
#include "attention/cpu_piece.h"

#include <math.h>
#include <string.h>

#include "cuda/kernel_params.h"
#include "formats/cpu_tokens.h"

_Static_assert(FM_KERNEL_MOST_D_QK <= FM_CPU_MOST_D_QK && FM_KERNEL_MOST_D_V <= FM_CPU_MOST_D_V,
               "a step has room for all head sizes that the rules let through");

/* A step adds up in float32, whose rounding errors grow with the number of terms, and fastest where tokens repeat: then
 * they have one sign. So sums of longer pieces are taken over stretches of so many tokens, in whole steps, and those
 * are added in float64. The bound of results in float32 is the tight one. */
enum { STRETCH = 9216, STRETCH_OF_FLOATS = 1024 };
static int32_t stretch_of(const fm_attention *attention) {
  return attention->queries.dtype == FM_FP32 ? STRETCH_OF_FLOATS : STRETCH;
}

fm_cpu_tile fm_tile_of(const fm_attention *attention, const fm_key_source *source, int32_t tokens, int32_t heads) {
  return (fm_cpu_tile){.q_dtype = attention->queries.dtype,
                       .cache_dtype = source->dtype,
                       .d_qk = attention->queries.d_qk,
                       .d_v = attention->d_v,
                       .tokens = tokens,
                       .heads = heads,
                       .scale_log2 = attention->queries.scale_log2};
}

/* Bytes of a row of queries that is put together. */
static size_t row_bytes(const fm_queries *q) { return (size_t)q->d_qk * (size_t)fm_dtype_bytes(q->dtype); }

size_t fm_queries_bytes(const fm_attention *attention) {
  const fm_queries *q = &attention->queries;
  return q->coded || q->parted ? ((size_t)attention->tiling.block_rows * row_bytes(q) + 63) / 64 * 64 : 0;
}

/* A row of queries: both parts, of which codes become numbers, side by side in the thread's memory. */
static const void *join_row(const fm_attention *attention, const fm_piece_worker *worker, const void *latent,
                            const void *rope, int32_t row) {
  const fm_queries *q = &attention->queries;
  const int32_t bytes = fm_dtype_bytes(q->dtype), columns = q->d_qk - attention->d_v;
  char *joined = (char *)worker->queries + (size_t)row * row_bytes(q), *behind = joined + attention->d_v * bytes;
  if (q->coded) {
    const float sign = copysignf(1, fm_descale_of_queries(q));
    fm_decode_codes(latent, attention->d_v, sign, worker->elements, q->dtype, joined);
    fm_decode_codes(rope, columns, sign, worker->elements, q->dtype, behind);
  } else {
    memcpy(joined, latent, (size_t)attention->d_v * (size_t)bytes);
    memcpy(behind, rope, (size_t)columns * (size_t)bytes);
  }
  return joined;
}

static void set_queries(const fm_attention *attention, const fm_piece_worker *worker, const fm_cpu_tile *shape,
                        const fm_rows *rows) {
  const fm_queries *q = &attention->queries;
  const void *queries[FM_CPU_MOST_ROWS];
  const int32_t bytes = fm_query_bytes(q);
  for (int32_t row = 0; row < rows->count; row++) {
    const char *latent = (const char *)q->data + fm_row_offset(attention, rows, row, q->stride) * bytes;
    const char *rope = (const char *)q->rope + fm_row_offset(attention, rows, row, q->rope_stride) * bytes;
    queries[row] = q->coded || q->parted ? join_row(attention, worker, latent, rope, row) : latent;
  }
  worker->step->set_queries(worker->scratch, shape, queries);
}

/* Where the bounds of the query tokens fall among the `count` tokens from `token` on; NULL: behind them all. */
static const int32_t *bounds_in(const fm_attention *attention, const fm_rows *rows, int64_t token, int32_t count,
                                int32_t attended[FM_CPU_MOST_ROWS]) {
  if (fm_row_bound(attention, rows, rows->first_token) >= token + count) return NULL;
  for (int32_t s = 0; s < rows->tokens; s++) {
    const int64_t bound = fm_row_bound(attention, rows, rows->first_token + s);
    attended[s] = (int32_t)fm_clamp64(bound - token, 0, count);
  }
  return attended;
}

/* ---- sums ---- */

/* What a row has attended over all stretches. */
typedef struct total {
  double values[FM_CPU_MOST_D_V] __attribute__((aligned(64))); /* sums of weight * value */
  double weight;                                               /* the sum of weights relative to `largest` */
  double largest;                                              /* logit, not scaled */
} total;

size_t fm_piece_totals_bytes(const fm_attention *attention) {
  const int64_t rows = attention->tiling.block_rows;
  const int64_t most = fm_most_units(&attention->work, attention->tiling.unit) * attention->tiling.unit;
  return most > stretch_of(attention) - FM_CPU_MOST_KEYS ? sizeof(total) * (size_t)rows : 0;
}

static void begin_totals(total *totals, int32_t rows) {
  for (int32_t row = 0; row < rows; row++) totals[row] = (total){.largest = -INFINITY};
}

/* Adds what a row has attended in a stretch. */
static void add_stretch(total *total, const fm_cpu_row_sums *sums, const fm_cpu_tile *shape) {
  if (sums->weight == 0) return; /* and `largest` may be -inf in both */
  const double largest = total->largest > sums->largest ? total->largest : (double)sums->largest;
  const double before = exp2((total->largest - largest) * shape->scale_log2);
  const double now = exp2((sums->largest - largest) * shape->scale_log2);
  for (int32_t d = 0; d < shape->d_v; d++) total->values[d] = total->values[d] * before + sums->values[d] * now;
  total->weight = total->weight * before + sums->weight * now;
  total->largest = largest;
}

static void add_stretches(const fm_piece_worker *worker, const fm_cpu_tile *shape, int32_t rows) {
  for (int32_t row = 0; row < rows; row++) {
    const fm_cpu_row_sums sums = worker->step->finish(worker->scratch, shape, row);
    add_stretch((total *)worker->totals + row, &sums, shape);
  }
}

/* What a piece has attended. */
typedef struct attended_keys {
  int64_t count;
  bool several; /* the sums are in worker->totals, else in the step's scratch */
} attended_keys;

/* Attends the keys of items [begin, end). */
static attended_keys attend(const fm_attention *attention, const fm_piece_worker *worker, const fm_cpu_tile *shape,
                            const fm_rows *rows, int64_t begin, int64_t end) {
  const fm_cpu_step *step = worker->step;
  const fm_key_source *source = worker->source;
  const int32_t most = step->keys(shape), stretch = stretch_of(attention) / most * most;
  const int32_t wanted = most + (source->room_bytes == 0 ? step->keys_ahead : 0);
  const void *keys[FM_CPU_MOST_KEYS + FM_CPU_KEYS_AHEAD];
  int32_t bounds[FM_CPU_MOST_ROWS], have = 0;
  fm_key_walk walk = {.rows = rows, .item = begin, .end = end, .room = worker->keys, .in_page = -1};
  attended_keys done = {.several = end - begin > stretch};
  if (done.several) begin_totals(worker->totals, rows->count);
  while ((have = source->next(source->call, &walk, keys, have, wanted)) > 0) {
    const int32_t count = fm_min32(most, have);
    if (done.count % stretch == 0) step->begin(worker->scratch, shape);
    step->attend(worker->scratch, shape, keys, count, have - count,
                 bounds_in(attention, rows, begin + done.count, count, bounds));
    done.count += count;
    have -= count;
    memmove(keys, keys + count, sizeof keys[0] * (size_t)have);
    if (done.several && done.count % stretch == 0) add_stretches(worker, shape, rows->count);
  }
  if (done.several && done.count % stretch != 0) add_stretches(worker, shape, rows->count);
  return done;
}

static const fm_row_result empty_row = {.lse = -INFINITY};

/* Where infinities in the cache make all logits of a row -inf, no weight is left: as on a GPU, the row is empty. */
static fm_row_result result_of(const fm_attention *attention, const fm_piece_worker *worker, const fm_cpu_tile *shape,
                               int32_t row, bool several) {
  if (!several) {
    const fm_cpu_row_sums sums = worker->step->finish(worker->scratch, shape, row);
    if (sums.weight == 0) return empty_row;
    return (fm_row_result){sums.values, 1.0f / sums.weight,
                           (double)sums.largest * attention->queries.softmax_scale + log((double)sums.weight)};
  }
  total *total = (struct total *)worker->totals + row;
  if (total->weight == 0) return empty_row;
  float *values = (float *)(void *)total->values; /* in the place of sums that were read */
  for (int32_t d = 0; d < shape->d_v; d++) {
    const float value = (float)(total->values[d] / total->weight);
    memcpy(values + d, &value, sizeof value);
  }
  return (fm_row_result){values, 1.0f, total->largest * attention->queries.softmax_scale + log(total->weight)};
}

/* A row that attends to none of the items from `begin` is empty. */
static void tell_rows(const fm_attention *attention, const fm_piece_worker *worker, const fm_cpu_tile *shape,
                      const fm_rows *rows, int64_t begin, attended_keys attended, fm_row_sink *sink, void *context) {
  for (int32_t row = 0; row < rows->count; row++) {
    const bool beyond = fm_row_bound(attention, rows, rows->first_token + row / rows->heads) <= begin;
    sink(context, row,
         beyond || attended.count == 0 ? empty_row : result_of(attention, worker, shape, row, attended.several));
  }
}

void fm_attend_piece(const fm_attention *attention, fm_piece_worker *worker, int32_t tile, int64_t first, int64_t last,
                     fm_row_sink *sink, void *context) {
  const fm_rows rows = fm_rows_of(attention, tile);
  if (rows.count == 0) return;
  const fm_cpu_tile shape = fm_tile_of(attention, worker->source, rows.tokens, rows.heads);
  const int64_t unit = attention->tiling.unit;
  /* The last token sees most. With a window a tile has one token. */
  int64_t end = fm_row_bound(attention, &rows, rows.first_token + rows.tokens - 1);
  const int64_t begin = fm_max64(rows.first_item + first * unit, fm_window_begin(&attention->mask, end));
  if (last >= 0) end = fm_min64(end, rows.first_item + last * unit);
  attended_keys attended = {0};
  if (begin < end) {
    /* A thread often takes several pieces of a tile. */
    if (worker->tile != tile) set_queries(attention, worker, &shape, &rows);
    worker->tile = tile;
    attended = attend(attention, worker, &shape, &rows, begin, end);
  }
  tell_rows(attention, worker, &shape, &rows, begin, attended, sink, context);
}
