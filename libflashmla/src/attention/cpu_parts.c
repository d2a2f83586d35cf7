/* cpu_parts.c - parts on the CPU: their pieces in the order of tiles, into out and lse, into partial slots, or, where
 * one thread has all pieces of a tile, folded in its memory. The bits are the same. */
#include <math.h>

#include "attention/cpu_piece.h"

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
  for (int32_t tile = from.tile; tile < to.tile || (tile == to.tile && to.unit > 0); tile++) {
    const int32_t first = tile == from.tile ? from.unit : 0;
    const int32_t last = tile == to.tile ? to.unit : -1;
    if (first == last) return; /* an empty part: both cuts are the same */
    const bool whole = first == 0 && last < 0;
    const fm_rows rows = fm_rows_of(attention, tile);
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
  return is_tile && cuts[first + 1].tile == begin.tile;
}

void fm_attend_cut_tile(const fm_attention *attention, fm_piece_worker *worker, int32_t first, int32_t end) {
  const fm_cut *cuts = attention->schedule.cuts;
  const int32_t tile = cuts[first].tile;
  const fm_rows rows = fm_rows_of(attention, tile);
  fm_fold_target target = {worker->elements, attention->d_v, fm_folded_in(attention, worker, 0)};
  fm_empty_folded(target.to, rows.count);
  for (int32_t part = first; part < end && cuts[part].tile == tile; part++) {
    const int32_t unit = cuts[part].unit, last = cuts[part + 1].tile == tile ? cuts[part + 1].unit : -1;
    if (unit != last) fm_attend_piece(attention, worker, tile, unit, last, fm_fold_result, &target);
  }
  fm_write_folded(attention, worker->elements, &rows, target.to);
}
