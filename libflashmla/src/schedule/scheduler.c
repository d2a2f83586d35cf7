/* scheduler.c - the host scheduler: cuts the list of (tile, unit) into parts, as schedule.h defines it. */
#include "schedule/pile.h"

/* Units of a piece of an aligned schedule, with at most `pieces` of a tile of so many. */
static int64_t piece_of(const fm_tiling *tiling, int64_t units, int32_t pieces) {
  return units <= tiling->whole_units ? fm_max64(units, 1) : fm_ceil_div(units, pieces);
}

static int64_t aligned_piece(const fm_pile *pile, int32_t request, int32_t pieces) {
  return piece_of(pile->tiling, fm_units_of(pile, request), pieces);
}

static void cut_forced(const fm_pile *pile, fm_cut *cuts) {
  const int32_t splits = pile->tiling->num_splits;
  for (int32_t w = 0; w < pile->tiling->num_parts; ++w) {
    const int32_t tile = w / splits, split = w % splits;
    const int64_t units = fm_units_of(pile, fm_pile_tile(pile, tile).request);
    const int64_t pieces = fm_min64(splits, fm_max64(units, 1)); /* no empty ones between others */
    cuts[w] = split < pieces ? (fm_cut){tile, (int32_t)(split * units / pieces)} : (fm_cut){tile + 1, 0};
  }
}

/* At most `most` pieces of a tile. */
static void cut_in_pieces(const fm_pile *pile, int32_t most, fm_cut *cuts) {
  for (int32_t w = 0; w < pile->tiling->num_parts; ++w) {
    const int32_t tile = w / most;
    if (tile >= pile->tiling->num_tiles) {
      cuts[w] = (fm_cut){pile->tiling->num_tiles, 0};
      continue;
    }
    const fm_tile_index at = fm_pile_tile(pile, tile);
    const int64_t unit = w % most * aligned_piece(pile, at.request, most);
    const bool none =
        (unit > 0 && unit >= fm_units_of(pile, at.request)) || at.in_head >= fm_live_tiles(pile, at.request);
    cuts[w] = none ? (fm_cut){tile + 1, 0} : (fm_cut){tile, (int32_t)unit};
  }
}

static void cut_whole_tiles(const fm_pile *pile, int64_t tiles_per_part, fm_cut *cuts) {
  const fm_band band = fm_band_of(pile);
  for (int32_t w = 0; w < pile->tiling->num_parts; ++w) {
    const int64_t tile = (int64_t)(w / band.parts) * band.tiles + fm_min64(w % band.parts * tiles_per_part, band.tiles);
    cuts[w] = (fm_cut){(int32_t)fm_min64(tile, pile->tiling->num_tiles), 0};
  }
}

/* Every part costs part_cost. */
static void cut_evenly(const fm_pile *pile, int64_t part_cost, fm_cut *cuts) {
  const fm_tiling *tiling = pile->tiling;
  const fm_band band = fm_band_of(pile);
  fm_search at = {0};
  for (int32_t w = 0; w < tiling->num_parts; ++w) {
    const int64_t position = w / band.parts * band.cost + fm_min64(w % band.parts * part_cost, band.cost);
    if (position >= fm_total_cost(pile)) {
      cuts[w] = (fm_cut){tiling->num_tiles, 0};
      continue;
    }
    int64_t offset;
    const int32_t tile = fm_find_tile(pile, &at, position, &offset);
    cuts[w] = (fm_cut){tile, (int32_t)fm_max64(offset - tiling->start_overhead, 0)};
  }
}

/* Cost of the most expensive part of aligned ones: one of `pieces` of a tile, or whole tiles where that is 0. */
static int64_t worst_aligned(const fm_pile *pile, fm_band band, int32_t pieces, int64_t tiles_per_part) {
  int64_t worst = 0;
  if (pieces > 0) {
    for (int32_t i = 0; i < pile->work->batch; ++i) worst = fm_max64(worst, aligned_piece(pile, i, pieces));
    return worst + pile->tiling->start_overhead;
  }
  for (int64_t first = 0; first < band.tiles; first += tiles_per_part)
    worst = fm_max64(worst, fm_cost_at(pile, fm_min64(first + tiles_per_part, band.tiles)) - fm_cost_at(pile, first));
  return worst;
}

/* Whether aligned parts, of which the most expensive one costs `worst`, are about as even as parts of equal cost. */
static bool are_even(const fm_tiling *tiling, int64_t worst, int64_t part_cost) {
  const int32_t pieces = tiling->num_parts / tiling->num_tiles; /* of a tile; 0: whole tiles */
  return worst <= part_cost + tiling->start_overhead + (pieces > 1 ? 1 : tiling->split_overhead);
}

bool fm_takes_whole_tiles(const fm_tiling *tiling, int64_t units) {
  const int32_t tiles = tiling->num_tiles / tiling->bands, parts = tiling->num_parts / tiling->bands;
  if (tiling->num_parts / tiling->num_tiles > 1) return false;
  const int64_t tile_cost = fm_max64(units, 1) + tiling->start_overhead;
  return are_even(tiling, fm_ceil_div(tiles, parts) * tile_cost, fm_ceil_div(tiles * tile_cost, parts));
}

bool fm_takes_pieces(const fm_tiling *tiling, int64_t units) {
  const int32_t tiles = tiling->num_tiles / tiling->bands, parts = tiling->num_parts / tiling->bands;
  const int32_t pieces = tiling->num_parts / tiling->num_tiles;
  return are_even(tiling, piece_of(tiling, units, pieces) + tiling->start_overhead,
                  fm_ceil_div(tiles * (units + tiling->start_overhead), parts));
}

static void cut_for_balance(const fm_pile *pile, fm_cut *cuts) {
  const fm_tiling *tiling = pile->tiling;
  const int32_t pieces = tiling->num_parts / tiling->num_tiles; /* of a tile; 0: whole tiles */
  const fm_band band = fm_band_of(pile);
  const int64_t tiles_per_part = fm_ceil_div(band.tiles, band.parts), part_cost = fm_ceil_div(band.cost, band.parts);
  if (!are_even(tiling, worst_aligned(pile, band, pieces, tiles_per_part), part_cost))
    cut_evenly(pile, part_cost, cuts);
  else if (pieces > 0)
    cut_in_pieces(pile, pieces, cuts);
  else
    cut_whole_tiles(pile, tiles_per_part, cuts);
}

static void set_ends(const fm_tiling *tiling, fm_cut *cuts) {
  cuts[0] = (fm_cut){0, 0}; /* dead tiles before the first live one belong to some part too */
  cuts[tiling->num_parts] = (fm_cut){tiling->num_tiles, 0};
}

void fm_schedule_on_host(const fm_work *work, const fm_tiling *tiling, fm_schedule schedule) {
  fm_cut *cuts = schedule.cuts;
  int64_t *cost_before = schedule.cost_before;
  const fm_pile pile = {work, tiling, cost_before};
  cost_before[0] = 0;
  for (int32_t i = 0; i < work->batch; ++i) {
    const int64_t tiles = tiling->request_major ? work->h_kv * fm_live_tiles(&pile, i) : 1;
    cost_before[i + 1] = cost_before[i] + tiles * fm_tile_cost(&pile, i);
  }
  if (tiling->piece_units > 0)
    fm_cut_between_items(&pile, schedule);
  else if (tiling->num_splits > 0)
    cut_forced(&pile, cuts);
  else
    cut_for_balance(&pile, cuts);
  set_ends(tiling, cuts);
}
