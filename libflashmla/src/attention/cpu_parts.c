/* cpu_parts.c - parts on the CPU: their pieces in the order of tiles, into out and lse, into partial slots, which are
 * joined at the end, or, where one thread has all pieces of a tile, folded in its memory. The bits are the same. */
#include <math.h>

#include "attention/cpu_fold.h"

enum { TILE }; /* what is folded */

typedef struct target {
  const fm_attention *attention;
  const fm_cpu_elements *elements;
  const fm_rows *rows;
  int64_t slot; /* < 0: out and lse */
} target;

static void write_row(void *context, int32_t row, fm_row_result result) {
  const target *to = context;
  const fm_attention *attention = to->attention;
  if (to->slot < 0) {
    fm_write_row(attention, to->elements, to->rows, row, result.values, result.normalise, result.lse);
    return;
  }
  const int64_t at = to->slot * attention->tiling.block_rows + row;
  fm_store_partial_row(attention, at, to->elements, result.values, result.normalise, result.lse / M_LN2);
}

void fm_attend_part(const fm_attention *attention, fm_piece_worker *worker, int32_t part) {
  const fm_cut from = attention->schedule.cuts[part], to = attention->schedule.cuts[part + 1];
  int32_t next;
  for (int32_t tile = from.tile; tile < to.tile || (tile == to.tile && to.unit > 0); tile = next) {
    const int32_t first = tile == from.tile ? from.unit : 0;
    const int32_t last = tile == to.tile ? to.unit : -1;
    if (first == last) return; /* an empty part: both cuts are the same */
    const bool whole = first == 0 && last < 0;
    const fm_rows rows = fm_rows_of(attention, tile);
    next = fm_tile_behind(attention, &rows, tile);
    target target = {.attention = attention,
                     .elements = worker->elements,
                     .rows = &rows,
                     .slot = whole ? -1 : fm_partial_slot(&attention->tiling, part, first == 0)};
    fm_attend_piece(attention, worker, tile, first, last, write_row, &target);
  }
}

bool fm_is_cut_tile(const fm_attention *attention, int32_t first, int32_t end) {
  const fm_cut *cuts = attention->schedule.cuts, begin = cuts[first], behind = cuts[end];
  const bool is_tile = begin.unit == 0 && behind.unit == 0 && behind.tile == begin.tile + 1;
  return is_tile && cuts[first + 1].unit > 0;
}

void fm_attend_cut_tile(const fm_attention *attention, fm_piece_worker *worker, int32_t first, int32_t end) {
  const fm_cut *cuts = attention->schedule.cuts;
  const int32_t tile = cuts[first].tile;
  const fm_rows rows = fm_rows_of(attention, tile);
  fm_fold_target target = fm_fold_into(attention, worker, TILE);
  for (int32_t part = first; part < end && cuts[part].tile == tile; part++) {
    const int32_t unit = cuts[part].unit, last = cuts[part + 1].tile == tile ? cuts[part + 1].unit : -1;
    if (unit != last) fm_attend_piece(attention, worker, tile, unit, last, fm_fold_result, &target);
  }
  fm_write_folded(attention, worker->elements, &rows, target.to);
}

/* Joins row `row` of the tile that parts `part` ... `end` worked on. */
static void join_row(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows, int32_t part,
                     int32_t end, int32_t row) {
  const fm_cut *cuts = attention->schedule.cuts;
  float values[FM_CPU_MOST_D_V] __attribute__((aligned(64)));
  double lse = -INFINITY;
  for (int32_t v = part; v <= end; v++) {
    if (cuts[v].tile == cuts[v + 1].tile && cuts[v].unit == cuts[v + 1].unit) continue; /* an empty part */
    const int64_t slot = fm_partial_slot(&attention->tiling, v, v == part);
    fm_fold_partial_row(attention, slot * attention->tiling.block_rows + row, elements, values, &lse);
  }
  fm_write_folded_row(attention, elements, rows, row, values, lse);
}

void fm_join_pieces(const fm_attention *attention, const fm_cpu_elements *elements, int32_t part, int32_t row,
                    int32_t count) {
  const fm_cut from = attention->schedule.cuts[part], to = attention->schedule.cuts[part + 1];
  const int32_t tile = to.tile; /* the tile that the next cut divides, if it does */
  const bool begins = to.unit > 0 && (from.tile < tile || from.unit == 0);
  if (!begins) return;
  int32_t end = part + 1;
  while (attention->schedule.cuts[end + 1].tile == tile) end++;
  const fm_rows block = fm_rows_of(attention, tile);
  for (int32_t r = row; r < row + count && r < block.count; r++) join_row(attention, elements, &block, part, end, r);
}
