/* cpu_merge.c - joins the partial results of a tile that several parts worked on. */
#include <math.h>

#include "attention/cpu_piece.h"

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
