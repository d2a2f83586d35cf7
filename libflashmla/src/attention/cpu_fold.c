/* cpu_fold.c - joins pieces of batch-invariant work, in the one order that items.h gives them. Log-sum-exps are
 * float64 here: a long request has hundreds of pieces, and each fold would round them. */
#include <math.h>
#include <string.h>

#include "attention/cpu.h"
#include "schedule/items.h"

void fm_fold_row(const fm_cpu_elements *elements, float *values, double *lse, const float *x, double x_lse,
                 int32_t d_v) {
  if (x_lse == -INFINITY) return;
  if (*lse == -INFINITY) {
    memcpy(values, x, sizeof *x * (size_t)d_v);
    *lse = x_lse;
    return;
  }
  const double largest = *lse > x_lse ? *lse : x_lse;
  const double before = exp2(*lse - largest), now = exp2(x_lse - largest), sum = before + now;
  elements->narrow[FM_FP32](values, values, (float)(before / sum), d_v);
  elements->add_weighted(values, x, (float)(now / sum), d_v);
  *lse = largest + log2(sum);
}

void fm_store_item_row(const fm_attention *attention, int64_t at, const float *values, double lse) {
  memcpy(attention->partials.facts + at * FM_CPU_ITEM_FACTS, &lse, sizeof lse);
  if (lse == -INFINITY) return;
  memcpy((float *)attention->partials.rows + at * attention->d_v, values, sizeof *values * (size_t)attention->d_v);
}

void fm_write_folded_row(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows,
                         int32_t row, const float *values, double lse) {
  fm_write_row(attention, elements, rows, row, lse == -INFINITY ? NULL : values, 1.0f, lse * M_LN2);
}

/* Row `row` of a tile of `items` items from slot `slot` on, of which `in_turn` make a node. */
static void fold_items(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows,
                       int64_t slot, int64_t items, int32_t in_turn, int32_t row) {
  const int32_t d_v = attention->d_v;
  float node[FM_CPU_MOST_D_V] __attribute__((aligned(64))), tile[FM_CPU_MOST_D_V] __attribute__((aligned(64)));
  double node_lse = -INFINITY, tile_lse = -INFINITY;
  for (int64_t i = 0; i < items; i++) {
    const int64_t at = (slot + i) * attention->tiling.block_rows + row;
    double lse;
    memcpy(&lse, attention->partials.facts + at * FM_CPU_ITEM_FACTS, sizeof lse);
    fm_fold_row(elements, node, &node_lse, (const float *)attention->partials.rows + at * d_v, lse, d_v);
    if ((i + 1) % in_turn != 0 && i + 1 < items) continue;
    fm_fold_row(elements, tile, &tile_lse, node, node_lse, d_v);
    node_lse = -INFINITY;
  }
  fm_write_folded_row(attention, elements, rows, row, tile, tile_lse);
}

void fm_fold_partials(const fm_attention *attention, const fm_cpu_elements *elements, int32_t part, int32_t row,
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
    fold_items(attention, elements, &rows, first.slot, items, in_turn, r);
}
