/* filling.c - the cuts of batch-invariant work: between items, for the costliest part to cost about the least. */
#include "schedule/items.h"
#include "schedule/pile.h"

/* The first slot of each part, of cuts between items of a level; returns the end of all slots. */
static int64_t number_slots(const fm_pile *pile, int32_t level, const fm_cut *cuts, int32_t *first_slot) {
  const fm_tiling *tiling = pile->tiling;
  int64_t slot = (int64_t)tiling->carries * tiling->num_parts;
  for (int32_t w = 0; w < tiling->num_parts; ++w) {
    const fm_cut from = cuts[w], to = cuts[w + 1];
    const int64_t begin = from.unit / tiling->piece_units, end = to.unit / tiling->piece_units;
    first_slot[w] = (int32_t)slot;
    if (begin > 0) {
      const int64_t units = fm_units_of(pile, fm_pile_tile(pile, from.tile).request);
      slot += fm_items_between(begin, from.tile < to.tile ? fm_quanta_of(tiling, units) : end, level);
    }
    if (end > 0 && (begin == 0 || from.tile < to.tile)) slot += fm_items_between(0, end, level);
    if (slot > INT32_MAX) return slot;
  }
  first_slot[tiling->num_parts] = (int32_t)slot;
  return slot;
}

/* Whether the parts of the first band do all its work if each takes as many items as cost `budget` at most; where they
 * begin. */
static bool fill_parts(const fm_pile *pile, fm_band band, int64_t budget, int32_t level, fm_cut *cuts) {
  const fm_tiling *tiling = pile->tiling;
  fm_search at = {0};
  int64_t position = 0;
  fm_cut cut = {band.cost > 0 ? 0 : band.tiles, 0};
  for (int32_t w = 0; w < band.parts; ++w) {
    cuts[w] = cut;
    if (position == band.cost) continue;
    int64_t end = band.cost, offset;
    cut = (fm_cut){band.tiles, 0};
    if (position + budget < band.cost) {
      const int32_t tile = fm_find_tile(pile, &at, position + budget, &offset);
      const int64_t pieces = fm_pieces_for(tiling, fm_max64(offset - tiling->start_overhead, 0));
      const int64_t first = fm_first_piece(fm_item_of(pieces, level), level); /* that the next part begins with */
      end = position + budget - offset + (first > 0 ? tiling->start_overhead + fm_cost_before_piece(tiling, first) : 0);
      cut = (fm_cut){tile, (int32_t)(fm_piece_begin(first) * tiling->piece_units)};
    }
    if (end <= position) return false; /* an item costs more */
    position = end;
  }
  return position == band.cost;
}

/* As evenly as items let it. */
static void fill_evenly(const fm_pile *pile, int32_t level, fm_cut *cuts) {
  const fm_tiling *tiling = pile->tiling;
  const fm_band band = fm_band_of(pile);
  int64_t most = 0;
  for (int32_t i = 0; i < pile->work->batch; ++i)
    if (pile->cost_before[i] < pile->cost_before[i + 1]) most = fm_max64(most, fm_tile_cost(pile, i));
  most = fm_min64(most, fm_most_of_item(tiling, level));
  const int64_t least = fm_ceil_div(band.cost, band.parts), step = most / (FM_BUDGETS - 1) + 1;
  int32_t low = 0, high = FM_BUDGETS - 1; /* what suffices for less suffices for more, and the last one always does */
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (fill_parts(pile, band, least + middle * step, level, cuts))
      high = middle;
    else
      low = middle + 1;
  }
  fill_parts(pile, band, least + high * step, level, cuts);
  for (int32_t w = band.parts; w < tiling->bands * band.parts; ++w) {
    const fm_cut of_first = cuts[w % band.parts];
    cuts[w] = (fm_cut){w / band.parts * band.tiles + of_first.tile, of_first.unit};
  }
  for (int32_t w = tiling->bands * band.parts; w <= tiling->num_parts; ++w) cuts[w] = (fm_cut){tiling->num_tiles, 0};
}

/* As finely as there are slots for the items. */
void fm_cut_between_items(const fm_pile *pile, fm_schedule schedule) {
  int32_t level = 0;
  for (;; ++level) {
    fill_evenly(pile, level, schedule.cuts);
    const int64_t slots = number_slots(pile, level, schedule.cuts, schedule.first_slot);
    if (slots <= pile->tiling->slots || level == FM_LEVELS - 1) break;
  }
  schedule.first_slot[pile->tiling->num_parts + 1] = level;
}
