/* cpu_parts.c - a part on the CPU: its pieces in the order of tiles, into out and lse or into partial slots. */
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
  const int32_t d_v = attention->d_v;
  if (to->slot < 0) {
    fm_write_row(attention, to->elements, to->rows, row, result.values, result.normalise, result.lse);
    return;
  }
  const int64_t at = to->slot * attention->tiling.block_rows + row;
  attention->partials.facts[at] = (float)(result.lse / M_LN2);
  if (result.values == NULL) return;
  to->elements->narrow[FM_FP32]((float *)attention->partials.rows + at * d_v, result.values, result.normalise, d_v);
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
