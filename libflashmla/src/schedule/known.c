/* known.c - cuts that follow from shapes alone, so that nobody has to make or read a schedule. */
#include "schedule/schedule.h"

/* Every tile is one part, whatever its length is. */
static fm_known_cuts whole_tiles(int32_t num_tiles) {
  return (fm_known_cuts){.tile_cost = 1, .group_parts = 1, .group_cost = 1, .total_cost = num_tiles};
}

fm_known_cuts fm_cuts_known(const fm_work *work, const fm_tiling *tiling) {
  const fm_known_cuts none = {0};
  if (tiling->piece_units > 0 || tiling->pieces_apart > 0) return none;
  if (tiling->num_splits == 1) return whole_tiles(tiling->num_tiles);
  if (tiling->num_splits > 0 || !work->full || work->varlen || work->window > 0) return none;
  const int64_t units = fm_most_units(work, tiling->unit), begin = tiling->start_overhead, cost = units + begin;
  /* so that all that is added up stays in 32 bits: twice, as the last part's group may be nearly twice the bands */
  if (2 * cost * ((int64_t)tiling->num_tiles + tiling->num_parts) >= INT32_MAX) return none;
  fm_known_cuts known = {.tile_cost = (int32_t)cost,
                         .begin_cost = (int32_t)begin,
                         .group_parts = tiling->num_parts / tiling->bands,
                         .group_cost = (int32_t)(cost * (tiling->num_tiles / tiling->bands)),
                         .total_cost = (int32_t)(cost * tiling->num_tiles)};
  const int32_t pieces = tiling->num_parts / tiling->num_tiles;
  if (pieces == 0 && fm_takes_whole_tiles(tiling, units)) {
    known.part_cost = (int32_t)(cost * fm_ceil_div(tiling->num_tiles / tiling->bands, known.group_parts));
  } else if (pieces > 0 && fm_takes_pieces(tiling, units)) {
    known.group_parts = pieces;
    known.group_cost = known.tile_cost;
    known.first_cost = known.begin_cost;
    known.part_cost = (int32_t)fm_ceil_div(units, pieces);
  } else {
    known.part_cost = (int32_t)fm_ceil_div(known.group_cost, known.group_parts);
  }
  return known;
}

fm_cut fm_cut_known(const fm_known_cuts *known, int32_t part) {
  const int32_t group = part / known->group_parts, step = part % known->group_parts * known->part_cost;
  const int32_t in_group = fm_min32(known->first_cost + step, known->group_cost);
  const int32_t cost = fm_min32(group * known->group_cost + in_group, known->total_cost);
  const int32_t tile = cost / known->tile_cost;
  return (fm_cut){tile, fm_max32(cost - tile * known->tile_cost - known->begin_cost, 0)};
}
