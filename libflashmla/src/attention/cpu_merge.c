/* cpu_merge.c - joins the partial results of a tile that several parts worked on. */
#include <math.h>

#include "attention/cpu.h"

/* Index of row `row` of the piece that part v has of the tile that `part` begins; -1: part v is empty. */
static int64_t partial_row(const fm_attention *attention, int32_t part, int32_t v, int32_t row) {
  const fm_cut from = attention->schedule.cuts[v], to = attention->schedule.cuts[v + 1];
  if (from.tile == to.tile && from.unit == to.unit) return -1;
  return fm_partial_slot(&attention->tiling, v, v == part) * attention->tiling.block_rows + row;
}

/* Joins row `row` of the tile that parts `part` ... `end` worked on. Base-2 log-sum-exps weigh the normalised rows. */
static void merge_row(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows, int32_t part,
                      int32_t end, int32_t row) {
  float largest = -INFINITY;
  bool attended = false;
  for (int32_t v = part; v <= end; v++) {
    const int64_t at = partial_row(attention, part, v, row);
    if (at < 0 || attention->partials.facts[at] == -INFINITY) continue;
    attended = true; /* though perhaps with NaN, which is no maximum */
    if (attention->partials.facts[at] > largest) largest = attention->partials.facts[at];
  }
  if (!attended) {
    fm_write_row(attention, elements, rows, row, NULL, 0, 0);
    return;
  }
  const int32_t d_v = attention->d_v;
  float sum[FM_CPU_MOST_D_V] __attribute__((aligned(64))) = {0};
  double total = 0;
  for (int32_t v = part; v <= end; v++) {
    const int64_t at = partial_row(attention, part, v, row);
    if (at < 0 || attention->partials.facts[at] == -INFINITY) continue; /* -inf: the values were not written */
    const float weight = exp2f(attention->partials.facts[at] - largest);
    elements->add_weighted(sum, (float *)attention->partials.rows + at * d_v, weight, d_v);
    total += weight;
  }
  const double lse = (largest + log2(total)) * M_LN2;
  fm_write_row(attention, elements, rows, row, sum, (float)(1 / total), lse);
}

void fm_merge_partials(const fm_attention *attention, const fm_cpu_elements *elements, int32_t part, int32_t row,
                       int32_t count) {
  const fm_cut from = attention->schedule.cuts[part], to = attention->schedule.cuts[part + 1];
  const int32_t tile = to.tile; /* the tile that the next cut divides, if it does */
  const bool begins = to.unit > 0 && (from.tile < tile || from.unit == 0);
  if (!begins) return;
  int32_t end = part + 1;
  while (attention->schedule.cuts[end + 1].tile == tile) end++;
  const fm_rows block = fm_rows_of(attention, tile);
  for (int32_t r = row; r < row + count && r < block.count; r++) merge_row(attention, elements, &block, part, end, r);
}
