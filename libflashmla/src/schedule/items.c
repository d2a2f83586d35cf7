/* items.c - what cut tiles of batch-invariant work store: pieces or nodes, and the slots of each part. */
#include "schedule/items.h"

/* log2 of the pieces of an item, by level; a whole tile is one item at the last. */
static const int32_t item_shift[FM_LEVELS] = {0, 3, 30};
_Static_assert(FM_NODE_PIECES == 1 << 3, "item_shift of level 1");

int64_t fm_items_between(int64_t begin, int64_t end, int32_t level) {
  const int32_t shift = item_shift[level];
  return fm_ceil_div(fm_pieces_of(end), INT64_C(1) << shift) - fm_item_of(fm_piece_at(begin), level);
}

int64_t fm_first_piece(int64_t item, int32_t level) { return item << item_shift[level]; }

int64_t fm_item_of(int64_t piece, int32_t level) { return piece >> item_shift[level]; }

int64_t fm_cost_of_pieces(const fm_tiling *tiling, int64_t units) {
  const int64_t pieces = fm_pieces_of(fm_quanta_of(tiling, units));
  return tiling->start_overhead + fm_max64(units, 1) + pieces * tiling->piece_overhead;
}

int64_t fm_cost_before_piece(const fm_tiling *tiling, int64_t piece) {
  return fm_piece_begin(piece) * tiling->piece_units + piece * tiling->piece_overhead;
}

int64_t fm_pieces_for(const fm_tiling *tiling, int64_t cost) {
  const int64_t of_small = tiling->piece_units + tiling->piece_overhead, small = FM_SMALL_PIECES * of_small;
  return cost < small ? cost / of_small : FM_SMALL_PIECES + (cost - small) / (of_small + tiling->piece_units);
}

int64_t fm_most_of_item(const fm_tiling *tiling, int32_t level) {
  const int64_t of_large = 2 * tiling->piece_units + tiling->piece_overhead;
  return tiling->start_overhead + (of_large << item_shift[level]);
}

int32_t fm_level(const fm_tiling *tiling, fm_schedule schedule) {
  return (int32_t)fm_clamp64(schedule.first_slot[tiling->num_parts + 1], 0, FM_LEVELS - 1);
}

fm_items fm_last_items(const fm_tiling *tiling, fm_schedule schedule, int32_t part) {
  const fm_cut from = schedule.cuts[part], to = schedule.cuts[part + 1];
  if (to.unit == 0 || (from.tile == to.tile && from.unit > 0)) return (fm_items){.tile = to.tile};
  const int64_t items = fm_items_between(0, to.unit / tiling->piece_units, fm_level(tiling, schedule));
  return (fm_items){.tile = to.tile, .count = (int32_t)items, .slot = schedule.first_slot[part + 1] - (int32_t)items};
}

fm_items fm_first_items(const fm_tiling *tiling, fm_schedule schedule, int32_t part) {
  const fm_cut from = schedule.cuts[part], to = schedule.cuts[part + 1];
  const int32_t level = fm_level(tiling, schedule);
  if (from.unit == 0) return (fm_items){.tile = from.tile};
  const int32_t reserved = schedule.first_slot[part + 1] - schedule.first_slot[part];
  return (fm_items){.tile = from.tile,
                    .first = (int32_t)fm_items_between(0, from.unit / tiling->piece_units, level),
                    .count = reserved - fm_last_items(tiling, schedule, part).count,
                    .slot = schedule.first_slot[part],
                    .ends = to.tile > from.tile};
}
