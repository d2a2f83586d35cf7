/* cpu_items.c - a part of batch-invariant work on the CPU: pieces are folded to nodes and tiles in memory of the
 * thread, or to items of cut tiles, which go to partial slots. */
#include <math.h>

#include "attention/cpu_piece.h"
#include "schedule/items.h"

/* What the rows of a tile are folded to. */
typedef struct folded {
  float *values; /* [rows][d_v], 64-byte aligned */
  double *lse;   /* [rows], base 2; -inf: empty */
} folded;

static size_t values_of(const fm_attention *attention) {
  return (size_t)attention->tiling.block_rows * (size_t)attention->d_v;
}

size_t fm_folds_bytes(const fm_attention *attention) {
  if (attention->tiling.piece_units == 0) return 0;
  const size_t lse = (size_t)attention->tiling.block_rows * sizeof(double);
  return (2 * (values_of(attention) * sizeof(float) + lse) + 63) / 64 * 64;
}

static folded node_in(const fm_piece_worker *worker, const fm_attention *attention) {
  float *values = worker->folds;
  return (folded){values, (double *)(values + 2 * values_of(attention))};
}

static folded tile_in(const fm_piece_worker *worker, const fm_attention *attention) {
  const folded node = node_in(worker, attention);
  return (folded){node.values + values_of(attention), node.lse + attention->tiling.block_rows};
}

static void empty(folded to, int32_t rows) {
  for (int32_t row = 0; row < rows; row++) to.lse[row] = -INFINITY;
}

typedef struct target {
  const fm_cpu_elements *elements;
  int32_t d_v;
  folded to;
} target;

static void fold_result(void *context, int32_t row, fm_row_result result) {
  const target *target = context;
  const int32_t d_v = target->d_v;
  float *values = target->to.values + (int64_t)row * d_v;
  double *lse = &target->to.lse[row];
  if (result.values == NULL) return;
  if (*lse == -INFINITY) {
    target->elements->narrow[FM_FP32](values, result.values, result.normalise, d_v);
    *lse = result.lse / M_LN2;
    return;
  }
  float x[FM_CPU_MOST_D_V] __attribute__((aligned(64)));
  target->elements->narrow[FM_FP32](x, result.values, result.normalise, d_v);
  fm_fold_row(target->elements, values, lse, x, result.lse / M_LN2, d_v);
}

/* Folds pieces [piece, end) of a tile into its node. The last one runs to the current end where `ends`. */
static void fold_pieces(const fm_attention *attention, fm_piece_worker *worker, int32_t tile, int64_t piece,
                        int64_t end, bool ends) {
  const int64_t quantum = attention->tiling.piece_units;
  target target = {worker->elements, attention->d_v, node_in(worker, attention)};
  empty(target.to, attention->tiling.block_rows);
  for (; piece < end; piece++) {
    const int64_t last = ends && piece + 1 == end ? -1 : fm_piece_begin(piece + 1) * quantum;
    fm_attend_piece(attention, worker, tile, fm_piece_begin(piece) * quantum, last, fold_result, &target);
  }
}

/* Of the current length. */
static int64_t pieces_of(const fm_attention *attention, const fm_rows *rows) {
  const int64_t units = fm_ceil_div(rows->length, attention->tiling.unit);
  return fm_pieces_of(fm_max64(1, fm_ceil_div(units, attention->tiling.piece_units)));
}

static void store_items(const fm_attention *attention, fm_piece_worker *worker, fm_items items) {
  if (items.count == 0) return;
  const fm_rows rows = fm_rows_of(attention, items.tile);
  const folded node = node_in(worker, attention);
  const int32_t level = fm_level(&attention->tiling, attention->schedule);
  for (int32_t i = 0; i < items.count; i++) {
    const bool ends = items.ends && i + 1 == items.count;
    const int64_t piece = fm_first_piece(items.first + i, level);
    int64_t end = fm_first_piece(items.first + i + 1, level);
    if (ends && level > 0) end = fm_max64(piece + 1, pieces_of(attention, &rows)); /* more than planned, or fewer */
    fold_pieces(attention, worker, items.tile, piece, end, ends);
    for (int32_t row = 0; row < rows.count; row++)
      fm_store_item_row(attention, (int64_t)(items.slot + i) * attention->tiling.block_rows + row,
                        node.values + (int64_t)row * attention->d_v, node.lse[row]);
  }
}

static void attend_whole(const fm_attention *attention, fm_piece_worker *worker, int32_t tile) {
  const fm_rows rows = fm_rows_of(attention, tile);
  const folded node = node_in(worker, attention), total = tile_in(worker, attention);
  const int32_t d_v = attention->d_v;
  if (rows.count == 0) return;
  empty(total, rows.count);
  const int64_t pieces = pieces_of(attention, &rows);
  for (int64_t piece = 0; piece < pieces; piece += FM_NODE_PIECES) {
    const int64_t end = fm_min64(piece + FM_NODE_PIECES, pieces);
    fold_pieces(attention, worker, tile, piece, end, end == pieces);
    for (int64_t row = 0; row < rows.count; row++)
      fm_fold_row(worker->elements, total.values + row * d_v, &total.lse[row], node.values + row * d_v, node.lse[row],
                  d_v);
  }
  for (int32_t row = 0; row < rows.count; row++)
    fm_write_folded_row(attention, worker->elements, &rows, row, total.values + (int64_t)row * d_v, total.lse[row]);
}

void fm_attend_invariant_part(const fm_attention *attention, fm_piece_worker *worker, int32_t part) {
  const fm_cut from = attention->schedule.cuts[part], to = attention->schedule.cuts[part + 1];
  store_items(attention, worker, fm_first_items(&attention->tiling, attention->schedule, part));
  for (int32_t tile = from.unit > 0 ? from.tile + 1 : from.tile; tile < to.tile; tile++)
    attend_whole(attention, worker, tile);
  store_items(attention, worker, fm_last_items(&attention->tiling, attention->schedule, part));
}
