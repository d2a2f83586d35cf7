/* scheduler.c - the host scheduler: cuts the list of (tile, unit) into parts, as schedule.h defines it. */
#include "schedule/items.h"

/* What the scheduler is given: the call and how it is tiled. */
typedef struct scheduler {
  const fm_work *work;
  const fm_tiling *tiling;
  const int64_t *cost_before;
} scheduler;

static fm_tile_index tile_at(const scheduler *s, int32_t tile) { return fm_tile_at(s->work, s->tiling, tile); }

static int64_t units_of(const scheduler *s, int32_t request) {
  return fm_ceil_div(fm_length_of(s->work, s->tiling->unit, request), s->tiling->unit);
}

/* Units of a piece of an aligned schedule, with at most `pieces` of a tile of so many. */
static int64_t piece_of(const fm_tiling *tiling, int64_t units, int32_t pieces) {
  return units <= tiling->whole_units ? fm_max64(units, 1) : fm_ceil_div(units, pieces);
}

static int64_t aligned_piece(const scheduler *s, int32_t request, int32_t pieces) {
  return piece_of(s->tiling, units_of(s, request), pieces);
}

/* Of batch-invariant work. */
static int64_t quanta_of(const scheduler *s, int32_t request) { return fm_quanta_of(s->tiling, units_of(s, request)); }

static int64_t tile_cost(const scheduler *s, int32_t request) {
  if (s->tiling->piece_units > 0) return fm_cost_of_pieces(s->tiling, units_of(s, request));
  return units_of(s, request) + s->tiling->start_overhead;
}

/* Live tiles of a request, a KV head. */
static int64_t live_tiles(const scheduler *s, int32_t request) {
  const fm_tiling *tiling = s->tiling;
  if (!tiling->request_major) return tiling->tiles_per_head;
  const int64_t token_groups = fm_ceil_div(fm_query_range_of(s->work, request).count, tiling->block_tokens);
  return fm_ceil_div(token_groups * tiling->head_chunks, tiling->cluster);
}

/* Cost of all tiles. */
static int64_t total_cost(const scheduler *s) {
  const int64_t all_requests = s->cost_before[s->work->batch];
  return s->tiling->request_major ? all_requests : s->tiling->tiles_per_request * all_requests;
}

/* What the bands of a schedule have in common. */
typedef struct band_extents {
  int32_t tiles, parts;
  int64_t cost;
} band_extents;

static band_extents band_of(const scheduler *s) {
  const fm_tiling *tiling = s->tiling;
  const int32_t bands = tiling->bands;
  return (band_extents){tiling->num_tiles / bands, tiling->num_parts / bands, total_cost(s) / bands};
}

/* Cost of all tiles before tile t. */
static int64_t cost_at(const scheduler *s, int64_t t) {
  if (t >= s->tiling->num_tiles) return total_cost(s);
  const int32_t batch = s->work->batch;
  if (!s->tiling->request_major) return t / batch * s->cost_before[batch] + s->cost_before[t % batch];
  const fm_tile_index at = tile_at(s, (int32_t)t);
  const int64_t live = live_tiles(s, at.request);
  return s->cost_before[at.request] + (at.kv_head * live + fm_min64(at.in_head, live)) * tile_cost(s, at.request);
}

static void cut_forced(const scheduler *s, fm_cut *cuts) {
  const int32_t splits = s->tiling->num_splits;
  for (int32_t w = 0; w < s->tiling->num_parts; ++w) {
    const int32_t tile = w / splits, split = w % splits;
    const int64_t units = units_of(s, tile_at(s, tile).request);
    const int64_t pieces = fm_min64(splits, fm_max64(units, 1)); /* no empty ones between others */
    cuts[w] = split < pieces ? (fm_cut){tile, (int32_t)(split * units / pieces)} : (fm_cut){tile + 1, 0};
  }
}

/* At most `most` pieces of a tile. */
static void cut_in_pieces(const scheduler *s, int32_t most, fm_cut *cuts) {
  for (int32_t w = 0; w < s->tiling->num_parts; ++w) {
    const int32_t tile = w / most;
    if (tile >= s->tiling->num_tiles) {
      cuts[w] = (fm_cut){s->tiling->num_tiles, 0};
      continue;
    }
    const fm_tile_index at = tile_at(s, tile);
    const int64_t unit = w % most * aligned_piece(s, at.request, most);
    const bool none = (unit > 0 && unit >= units_of(s, at.request)) || at.in_head >= live_tiles(s, at.request);
    cuts[w] = none ? (fm_cut){tile + 1, 0} : (fm_cut){tile, (int32_t)unit};
  }
}

static void cut_whole_tiles(const scheduler *s, int64_t tiles_per_part, fm_cut *cuts) {
  const band_extents band = band_of(s);
  for (int32_t w = 0; w < s->tiling->num_parts; ++w) {
    const int64_t tile = (int64_t)(w / band.parts) * band.tiles + fm_min64(w % band.parts * tiles_per_part, band.tiles);
    cuts[w] = (fm_cut){(int32_t)fm_min64(tile, s->tiling->num_tiles), 0};
  }
}

/* The last request that begins at a cost or before, of a column that costs more. */
static int32_t last_before(const scheduler *s, int64_t cost) {
  int32_t low = 0, high = s->work->batch;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    if (s->cost_before[middle] <= cost)
      low = middle;
    else
      high = middle;
  }
  return low;
}

/* A search for positions that only grow, so that it goes on from the last one: of the request, and anew in another
 * column. Numbered request by request, all tiles are one column of requests. */
typedef struct search {
  int64_t column;
  int32_t request;
} search;

/* The tile in which a position lies, of less than all cost; `offset`: how far behind its begin. */
static int32_t find_tile(const scheduler *s, search *at, int64_t position, int64_t *offset) {
  const fm_tiling *tiling = s->tiling;
  const int32_t batch = s->work->batch;
  const int64_t column_cost = s->cost_before[batch];
  const int64_t column = position / column_cost;
  *offset = position - column * column_cost;
  if (at->column != column) *at = (search){column, last_before(s, *offset)};
  while (s->cost_before[at->request + 1] <= *offset) ++at->request;
  *offset -= s->cost_before[at->request];
  if (!tiling->request_major) return (int32_t)(at->column * batch + at->request);
  const int64_t live = live_tiles(s, at->request), cost = tile_cost(s, at->request), j = *offset / cost;
  *offset -= j * cost;
  return at->request * tiling->tiles_per_request + (int32_t)(j / live * tiling->tiles_per_head + j % live);
}

/* Every part costs part_cost. */
static void cut_evenly(const scheduler *s, int64_t part_cost, fm_cut *cuts) {
  const fm_tiling *tiling = s->tiling;
  const band_extents band = band_of(s);
  search at = {0};
  for (int32_t w = 0; w < tiling->num_parts; ++w) {
    const int64_t position = w / band.parts * band.cost + fm_min64(w % band.parts * part_cost, band.cost);
    if (position >= total_cost(s)) {
      cuts[w] = (fm_cut){tiling->num_tiles, 0};
      continue;
    }
    int64_t offset;
    const int32_t tile = find_tile(s, &at, position, &offset);
    cuts[w] = (fm_cut){tile, (int32_t)fm_max64(offset - tiling->start_overhead, 0)};
  }
}

/* Cost of the most expensive part of aligned ones: one of `pieces` of a tile, or whole tiles where that is 0. */
static int64_t worst_aligned(const scheduler *s, band_extents band, int32_t pieces, int64_t tiles_per_part) {
  int64_t worst = 0;
  if (pieces > 0) {
    for (int32_t i = 0; i < s->work->batch; ++i) worst = fm_max64(worst, aligned_piece(s, i, pieces));
    return worst + s->tiling->start_overhead;
  }
  for (int64_t first = 0; first < band.tiles; first += tiles_per_part)
    worst = fm_max64(worst, cost_at(s, fm_min64(first + tiles_per_part, band.tiles)) - cost_at(s, first));
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

static void cut_for_balance(const scheduler *s, fm_cut *cuts) {
  const fm_tiling *tiling = s->tiling;
  const int32_t pieces = tiling->num_parts / tiling->num_tiles; /* of a tile; 0: whole tiles */
  const band_extents band = band_of(s);
  const int64_t tiles_per_part = fm_ceil_div(band.tiles, band.parts), part_cost = fm_ceil_div(band.cost, band.parts);
  if (!are_even(tiling, worst_aligned(s, band, pieces, tiles_per_part), part_cost))
    cut_evenly(s, part_cost, cuts);
  else if (pieces > 0)
    cut_in_pieces(s, pieces, cuts);
  else
    cut_whole_tiles(s, tiles_per_part, cuts);
}

/* The first slot of each part, of cuts between items of a level; returns the end of all slots. */
static int64_t number_slots(const scheduler *s, int32_t level, const fm_cut *cuts, int32_t *first_slot) {
  const fm_tiling *tiling = s->tiling;
  int64_t slot = (int64_t)tiling->carries * tiling->num_parts;
  for (int32_t w = 0; w < tiling->num_parts; ++w) {
    const fm_cut from = cuts[w], to = cuts[w + 1];
    const int64_t begin = from.unit / tiling->piece_units, end = to.unit / tiling->piece_units;
    first_slot[w] = (int32_t)slot;
    if (begin > 0) {
      const bool ends = from.tile < to.tile;
      slot += fm_items_between(begin, ends ? quanta_of(s, tile_at(s, from.tile).request) : end, level);
    }
    if (end > 0 && (begin == 0 || from.tile < to.tile)) slot += fm_items_between(0, end, level);
    if (slot > INT32_MAX) return slot;
  }
  first_slot[tiling->num_parts] = (int32_t)slot;
  return slot;
}

static void set_ends(const fm_tiling *tiling, fm_cut *cuts) {
  cuts[0] = (fm_cut){0, 0}; /* dead tiles before the first live one belong to some part too */
  cuts[tiling->num_parts] = (fm_cut){tiling->num_tiles, 0};
}

/* Whether the parts of the first band do all its work if each takes as many items as cost `budget` at most; where they
 * begin. */
static bool fill_parts(const scheduler *s, band_extents band, int64_t budget, int32_t level, fm_cut *cuts) {
  const fm_tiling *tiling = s->tiling;
  search at = {0};
  int64_t position = 0;
  fm_cut cut = {band.cost > 0 ? 0 : band.tiles, 0};
  for (int32_t w = 0; w < band.parts; ++w) {
    cuts[w] = cut;
    if (position == band.cost) continue;
    int64_t end = band.cost, offset;
    cut = (fm_cut){band.tiles, 0};
    if (position + budget < band.cost) {
      const int32_t tile = find_tile(s, &at, position + budget, &offset);
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
static void fill_evenly(const scheduler *s, int32_t level, fm_cut *cuts) {
  const fm_tiling *tiling = s->tiling;
  const band_extents band = band_of(s);
  int64_t most = 0;
  for (int32_t i = 0; i < s->work->batch; ++i)
    if (s->cost_before[i] < s->cost_before[i + 1]) most = fm_max64(most, tile_cost(s, i));
  most = fm_min64(most, fm_most_of_item(tiling, level));
  const int64_t least = fm_ceil_div(band.cost, band.parts), step = most / (FM_BUDGETS - 1) + 1;
  int32_t low = 0, high = FM_BUDGETS - 1; /* what suffices for less suffices for more, and the last one always does */
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (fill_parts(s, band, least + middle * step, level, cuts))
      high = middle;
    else
      low = middle + 1;
  }
  fill_parts(s, band, least + high * step, level, cuts);
  for (int32_t w = band.parts; w < tiling->bands * band.parts; ++w) {
    const fm_cut of_first = cuts[w % band.parts];
    cuts[w] = (fm_cut){w / band.parts * band.tiles + of_first.tile, of_first.unit};
  }
  for (int32_t w = tiling->bands * band.parts; w < tiling->num_parts; ++w) cuts[w] = (fm_cut){tiling->num_tiles, 0};
}

/* Of batch-invariant work: as finely as there are slots for the items. */
static void cut_between_items(const scheduler *s, fm_schedule schedule) {
  int32_t level = 0;
  for (;; ++level) {
    fill_evenly(s, level, schedule.cuts);
    set_ends(s->tiling, schedule.cuts);
    const int64_t slots = number_slots(s, level, schedule.cuts, schedule.first_slot);
    if (slots <= s->tiling->slots || level == FM_LEVELS - 1) break;
  }
  schedule.first_slot[s->tiling->num_parts + 1] = level;
}

void fm_schedule_on_host(const fm_work *work, const fm_tiling *tiling, fm_schedule schedule) {
  fm_cut *cuts = schedule.cuts;
  int64_t *cost_before = schedule.cost_before;
  const scheduler s = {work, tiling, cost_before};
  cost_before[0] = 0;
  for (int32_t i = 0; i < work->batch; ++i) {
    const int64_t tiles = tiling->request_major ? work->h_kv * live_tiles(&s, i) : 1;
    cost_before[i + 1] = cost_before[i] + tiles * tile_cost(&s, i);
  }
  if (tiling->piece_units > 0) {
    cut_between_items(&s, schedule);
    return;
  }
  if (tiling->num_splits > 0)
    cut_forced(&s, cuts);
  else
    cut_for_balance(&s, cuts);
  set_ends(tiling, cuts);
}
