/* pile.c - what tiles cost, and which one lies where on the line of all work. */
#include "schedule/pile.h"

#include "schedule/items.h"

fm_tile_index fm_pile_tile(const fm_pile *pile, int32_t tile) { return fm_tile_at(pile->work, pile->tiling, tile); }

int64_t fm_units_of(const fm_pile *pile, int32_t request) {
  return fm_ceil_div(fm_length_of(pile->work, pile->tiling->unit, request), pile->tiling->unit);
}

int64_t fm_tile_cost(const fm_pile *pile, int32_t request) {
  const int64_t units = fm_units_of(pile, request);
  if (pile->tiling->piece_units > 0) return fm_cost_of_pieces(pile->tiling, units);
  return units + pile->tiling->start_overhead;
}

int64_t fm_live_tiles(const fm_pile *pile, int32_t request) {
  const fm_tiling *tiling = pile->tiling;
  if (!tiling->request_major) return tiling->tiles_per_head;
  const int64_t token_groups = fm_ceil_div(fm_query_range_of(pile->work, request).count, tiling->block_tokens);
  return fm_ceil_div(token_groups * tiling->head_chunks, tiling->cluster);
}

int64_t fm_total_cost(const fm_pile *pile) {
  const int64_t all_requests = pile->cost_before[pile->work->batch];
  return pile->tiling->request_major ? all_requests : pile->tiling->tiles_per_request * all_requests;
}

fm_band fm_band_of(const fm_pile *pile) {
  const fm_tiling *tiling = pile->tiling;
  const int32_t bands = tiling->bands;
  return (fm_band){tiling->num_tiles / bands, tiling->num_parts / bands, fm_total_cost(pile) / bands};
}

int64_t fm_cost_at(const fm_pile *pile, int64_t t) {
  if (t >= pile->tiling->num_tiles) return fm_total_cost(pile);
  const int32_t batch = pile->work->batch;
  if (!pile->tiling->request_major) return t / batch * pile->cost_before[batch] + pile->cost_before[t % batch];
  const fm_tile_index at = fm_pile_tile(pile, (int32_t)t);
  const int64_t live = fm_live_tiles(pile, at.request);
  return pile->cost_before[at.request] +
         (at.kv_head * live + fm_min64(at.in_head, live)) * fm_tile_cost(pile, at.request);
}

/* The last request that begins at a cost or before, of a column that costs more. */
static int32_t last_before(const fm_pile *pile, int64_t cost) {
  int32_t low = 0, high = pile->work->batch;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    if (pile->cost_before[middle] <= cost)
      low = middle;
    else
      high = middle;
  }
  return low;
}

int32_t fm_find_tile(const fm_pile *pile, fm_search *at, int64_t position, int64_t *offset) {
  const fm_tiling *tiling = pile->tiling;
  const int32_t batch = pile->work->batch;
  const int64_t column_cost = pile->cost_before[batch];
  const int64_t column = position / column_cost;
  *offset = position - column * column_cost;
  if (at->column != column) *at = (fm_search){column, last_before(pile, *offset)};
  while (pile->cost_before[at->request + 1] <= *offset) ++at->request;
  *offset -= pile->cost_before[at->request];
  if (!tiling->request_major) return (int32_t)(at->column * batch + at->request);
  const int64_t live = fm_live_tiles(pile, at->request), cost = fm_tile_cost(pile, at->request), j = *offset / cost;
  *offset -= j * cost;
  return at->request * tiling->tiles_per_request + (int32_t)(j / live * tiling->tiles_per_head + j % live);
}
