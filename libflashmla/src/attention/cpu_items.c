/* cpu_items.c - a part of batch-invariant work on the CPU: pieces are folded to nodes and tiles in memory of the
 * thread, or to items of cut tiles, which go to partial slots and are joined there, in the one order that items.h gives
 * them. */
#include <math.h>

#include "attention/cpu_fold.h"
#include "schedule/items.h"

enum { NODE, TILE }; /* what is folded */

/* Folds pieces [piece, end) of a tile into its node. The last one runs to the current end where `ends`. */
static void fold_pieces(const fm_attention *attention, fm_piece_worker *worker, int32_t tile, int64_t piece,
                        int64_t end, bool ends) {
  const int64_t quantum = attention->tiling.piece_units;
  fm_fold_target target = fm_fold_into(attention, worker, NODE);
  for (; piece < end; piece++) {
    const int64_t last = ends && piece + 1 == end ? -1 : fm_piece_begin(piece + 1) * quantum;
    fm_attend_piece(attention, worker, tile, fm_piece_begin(piece) * quantum, last, fm_fold_result, &target);
  }
}

/* Of the current length. */
static int64_t pieces_of(const fm_attention *attention, const fm_rows *rows) {
  const int64_t units = fm_ceil_div(rows->length, attention->tiling.unit);
  return fm_pieces_of(fm_quanta_of(&attention->tiling, units));
}

static void store_items(const fm_attention *attention, fm_piece_worker *worker, fm_items items) {
  if (items.count == 0) return;
  const fm_rows rows = fm_rows_of(attention, items.tile);
  const fm_folded node = fm_folded_in(attention, worker, NODE);
  const int32_t level = fm_level(&attention->tiling, attention->schedule);
  for (int32_t i = 0; i < items.count; i++) {
    const bool ends = items.ends && i + 1 == items.count;
    const int64_t piece = fm_first_piece(items.first + i, level);
    int64_t end = fm_first_piece(items.first + i + 1, level);
    if (ends && level > 0) end = fm_max64(piece + 1, pieces_of(attention, &rows)); /* more than planned, or fewer */
    fold_pieces(attention, worker, items.tile, piece, end, ends);
    for (int32_t row = 0; row < rows.count; row++)
      fm_store_partial_row(attention, (int64_t)(items.slot + i) * attention->tiling.block_rows + row, worker->elements,
                           node.values + (int64_t)row * attention->d_v, 1.0f, node.lse[row]);
  }
}

/* Returns the tile that comes next. */
static int32_t attend_whole(const fm_attention *attention, fm_piece_worker *worker, int32_t tile) {
  const fm_rows rows = fm_rows_of(attention, tile);
  const int32_t next = fm_tile_behind(attention, &rows, tile);
  const fm_folded node = fm_folded_in(attention, worker, NODE), total = fm_folded_in(attention, worker, TILE);
  const int32_t d_v = attention->d_v;
  if (rows.count == 0) return next;
  fm_empty_folded(total, rows.count);
  const int64_t pieces = pieces_of(attention, &rows);
  for (int64_t piece = 0; piece < pieces; piece += FM_NODE_PIECES) {
    const int64_t end = fm_min64(piece + FM_NODE_PIECES, pieces);
    fold_pieces(attention, worker, tile, piece, end, end == pieces);
    for (int64_t row = 0; row < rows.count; row++)
      fm_fold_row(worker->elements, total.values + row * d_v, &total.lse[row], node.values + row * d_v, node.lse[row],
                  d_v);
  }
  fm_write_folded(attention, worker->elements, &rows, total);
  return next;
}

void fm_attend_invariant_part(const fm_attention *attention, fm_piece_worker *worker, int32_t part) {
  const fm_cut from = attention->schedule.cuts[part], to = attention->schedule.cuts[part + 1];
  store_items(attention, worker, fm_first_items(&attention->tiling, attention->schedule, part));
  for (int32_t tile = from.unit > 0 ? from.tile + 1 : from.tile; tile < to.tile;)
    tile = attend_whole(attention, worker, tile);
  store_items(attention, worker, fm_last_items(&attention->tiling, attention->schedule, part));
}

/* Row `row` of a tile of `items` items from slot `slot` on, of which `in_turn` make a node. */
static void join_row(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows, int64_t slot,
                     int64_t items, int32_t in_turn, int32_t row) {
  float node[FM_CPU_MOST_D_V] __attribute__((aligned(64))), tile[FM_CPU_MOST_D_V] __attribute__((aligned(64)));
  double node_lse = -INFINITY, tile_lse = -INFINITY;
  for (int64_t i = 0; i < items; i++) {
    fm_fold_partial_row(attention, (slot + i) * attention->tiling.block_rows + row, elements, node, &node_lse);
    if ((i + 1) % in_turn != 0 && i + 1 < items) continue;
    fm_fold_row(elements, tile, &tile_lse, node, node_lse, attention->d_v);
    node_lse = -INFINITY;
  }
  fm_write_folded_row(attention, elements, rows, row, tile, tile_lse);
}

void fm_join_items(const fm_attention *attention, const fm_cpu_elements *elements, int32_t part, int32_t row,
                   int32_t count) {
  const fm_tiling *tiling = &attention->tiling;
  const fm_schedule schedule = attention->schedule;
  const fm_items first = fm_last_items(tiling, schedule, part);
  if (first.count == 0) return;
  int64_t items = first.count;
  for (int32_t v = part + 1; v < tiling->num_parts && schedule.cuts[v].tile == first.tile; v++)
    items += fm_first_items(tiling, schedule, v).count;
  const int32_t in_turn = fm_level(tiling, schedule) == 0 ? FM_NODE_PIECES : 1;
  const fm_rows rows = fm_rows_of(attention, first.tile);
  for (int32_t r = row; r < row + count && r < rows.count; r++)
    join_row(attention, elements, &rows, first.slot, items, in_turn, r);
}
