/* cpu_piece.c - attention of a piece: the rows of a tile over a range of its tokens, step by step. */
#include "ops/dense_decode/cpu_piece.h"

#include <math.h>
#include <string.h>

_Static_assert(FM_KERNEL_MOST_D_QK <= FM_CPU_MOST_D_QK && FM_KERNEL_MOST_D_V <= FM_CPU_MOST_D_V,
               "a step has room for all head sizes that the rules let through");

/* A step adds up in float32, whose rounding errors grow with the number of terms. So sums of longer pieces are taken
 * over stretches of so many tokens, in whole steps, and those are added in float64. */
enum { STRETCH = 9216 };

fm_cpu_tile fm_tile_of(const fm_dense_decode *decode, int32_t tokens, int32_t heads) {
  return (fm_cpu_tile){.q_dtype = decode->paged.q_dtype,
                       .cache_dtype = decode->paged.cache_dtype,
                       .d_qk = decode->paged.d_qk,
                       .d_v = decode->attention.d_v,
                       .tokens = tokens,
                       .heads = heads,
                       .scale_log2 = decode->scale_log2};
}

static void set_queries(const fm_dense_decode *decode, const fm_piece_worker *worker, const fm_cpu_tile *shape,
                        const fm_rows *rows) {
  const fm_paged *paged = &decode->paged;
  const void *queries[FM_CPU_MOST_ROWS];
  for (int32_t row = 0; row < rows->count; row++) {
    const int64_t element = fm_row_offset(&decode->attention, rows, row, paged->q_stride);
    queries[row] = (const char *)paged->q + element * fm_dtype_bytes(paged->q_dtype);
  }
  worker->step->set_queries(worker->scratch, shape, queries);
}

/* Page of the cache that holds page `page` of the request; NULL: outside the cache, a page of zeros. */
static const char *page_of(const fm_dense_decode *decode, const fm_rows *rows, int64_t page) {
  const fm_paged *paged = &decode->paged;
  const int32_t block = paged->block_table[rows->request * paged->block_table_stride + page];
  if (block < 0 || block >= paged->num_blocks) return NULL;
  const int64_t element = block * paged->cache_stride[0] + rows->kv_head * paged->cache_stride[2];
  return (const char *)paged->cache + element * fm_dtype_bytes(paged->cache_dtype);
}

/* Walks over the KV rows of a request in token order, up to `end`: what the table holds for later ones is garbage. */
typedef struct walk {
  int64_t token, end, in_page;
  const char *page;
} walk;

static walk walk_from(int64_t token, int64_t end) { return (walk){.token = token, .end = end, .in_page = -1}; }

/* Appends the next rows to keys[have] ..., up to keys[wanted - 1]; NULL: zeros. Returns how many keys there are then.
 */
static int32_t next_keys(const fm_dense_decode *decode, const fm_rows *rows, walk *walk, const void *keys[],
                         int32_t have, int32_t wanted) {
  const fm_paged *paged = &decode->paged;
  const int64_t stride = paged->cache_stride[1] * fm_dtype_bytes(paged->cache_dtype);
  for (; have < wanted && walk->token < walk->end; have++, walk->token++, walk->in_page++) {
    if (walk->in_page < 0 || walk->in_page == paged->page_size) {
      walk->page = page_of(decode, rows, walk->token / paged->page_size);
      walk->in_page = walk->token % paged->page_size;
    }
    keys[have] = walk->page == NULL ? NULL : walk->page + walk->in_page * stride;
  }
  return have;
}

/* Where the bounds of the query tokens fall among the `count` tokens from `token` on; NULL: behind them all. */
static const int32_t *bounds_in(const fm_dense_decode *decode, const fm_rows *rows, int64_t token, int32_t count,
                                int32_t attended[FM_CPU_MOST_ROWS]) {
  if (fm_row_bound(&decode->attention, rows, rows->first_token) >= token + count) return NULL;
  for (int32_t s = 0; s < rows->tokens; s++) {
    const int64_t bound = fm_row_bound(&decode->attention, rows, rows->first_token + s);
    attended[s] = (int32_t)fm_clamp64(bound - token, 0, count);
  }
  return attended;
}

/* ---- sums ---- */

/* What a row has attended over all stretches. */
typedef struct total {
  double values[FM_CPU_MOST_D_V]; /* sums of weight * value */
  double weight;                  /* the sum of weights relative to `largest` */
  double largest;                 /* logit, not scaled */
} total;

size_t fm_piece_totals_bytes(const fm_dense_decode *decode) {
  const int64_t rows = decode->attention.tiling.block_rows;
  return decode->attention.work.capacity > STRETCH - FM_CPU_MOST_KEYS ? sizeof(total) * (size_t)rows : 0;
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

/* Attends tokens [begin, end). True: the sums are in worker->totals, else in the step's scratch. */
static bool attend(const fm_dense_decode *decode, const fm_piece_worker *worker, const fm_cpu_tile *shape,
                   const fm_rows *rows, int64_t begin, int64_t end) {
  const fm_cpu_step *step = worker->step;
  const int32_t most = step->keys(shape), stretch = STRETCH / most * most;
  const bool several = end - begin > stretch;
  const void *keys[FM_CPU_MOST_KEYS + FM_CPU_KEYS_AHEAD];
  int32_t attended[FM_CPU_MOST_ROWS], have = 0;
  walk walk = walk_from(begin, end);
  if (several) begin_totals(worker->totals, rows->count);
  for (int64_t token = begin; token < end; token += most) {
    if ((token - begin) % stretch == 0) step->begin(worker->scratch, shape);
    have = next_keys(decode, rows, &walk, keys, have, most + step->keys_ahead);
    const int32_t count = fm_min32(most, have);
    step->attend(worker->scratch, shape, keys, count, have - count, bounds_in(decode, rows, token, count, attended));
    have -= count;
    memmove(keys, keys + count, sizeof keys[0] * (size_t)have);
    if (!several || ((token + most - begin) % stretch != 0 && token + most < end)) continue;
    for (int32_t row = 0; row < rows->count; row++) {
      const fm_cpu_row_sums sums = step->finish(worker->scratch, shape, row);
      add_stretch((total *)worker->totals + row, &sums, shape);
    }
  }
  return several;
}

static fm_row_result result_of(const fm_dense_decode *decode, const fm_piece_worker *worker, const fm_cpu_tile *shape,
                               int32_t row, bool several, float values[FM_CPU_MOST_D_V]) {
  if (!several) {
    const fm_cpu_row_sums sums = worker->step->finish(worker->scratch, shape, row);
    return (fm_row_result){sums.values, 1.0f / sums.weight,
                           (double)sums.largest * decode->softmax_scale + log((double)sums.weight)};
  }
  const total *total = (const struct total *)worker->totals + row;
  for (int32_t d = 0; d < shape->d_v; d++) values[d] = (float)(total->values[d] / total->weight);
  return (fm_row_result){values, 1.0f, total->largest * decode->softmax_scale + log(total->weight)};
}

/* A row that attends to none of the tokens from `begin` is empty. */
static void tell_rows(const fm_dense_decode *decode, const fm_piece_worker *worker, const fm_cpu_tile *shape,
                      const fm_rows *rows, int64_t begin, bool several, fm_row_sink *sink, void *context) {
  const fm_attention *attention = &decode->attention;
  float values[FM_CPU_MOST_D_V] __attribute__((aligned(64)));
  for (int32_t row = 0; row < rows->count; row++) {
    const bool empty = fm_row_bound(attention, rows, rows->first_token + row / rows->heads) <= begin;
    sink(context, row,
         empty ? (fm_row_result){.lse = -INFINITY} : result_of(decode, worker, shape, row, several, values));
  }
}

void fm_attend_piece(const fm_dense_decode *decode, fm_piece_worker *worker, int32_t tile, int64_t first, int64_t last,
                     fm_row_sink *sink, void *context) {
  const fm_rows rows = fm_rows_of(&decode->attention, tile);
  if (rows.count == 0) return;
  const fm_cpu_tile shape = fm_tile_of(decode, rows.tokens, rows.heads);
  const int64_t unit = decode->attention.tiling.unit, begin = first * unit;
  /* The last token sees most. */
  int64_t end = fm_row_bound(&decode->attention, &rows, rows.first_token + rows.tokens - 1);
  if (last >= 0) end = fm_min64(end, last * unit);
  bool several = false;
  if (begin < end) {
    /* A thread often takes several pieces of a tile. */
    if (worker->tile != tile) set_queries(decode, worker, &shape, &rows);
    worker->tile = tile;
    several = attend(decode, worker, &shape, &rows, begin, end);
  }
  tell_rows(decode, worker, &shape, &rows, begin, several, sink, context);
}
