/* plan.c - the host scheduler: cuts the list of (tile, page) into parts, as internal.h defines it. */
#include "arith.h"
#include "internal.h"

static int64_t pages_of(const fm_problem *problem, int32_t request) {
  const int64_t capacity = (int64_t)problem->max_blocks * problem->page_size;
  const int64_t length = problem->cache_seqlens[request];
  return length <= 0 ? 0 : fm_ceil_div(fm_min64(length, capacity), problem->page_size);
}

/* Cost of all tiles before tile t. */
static int64_t cost_at(const fm_tiling *tiling, const int64_t *cost_before, int64_t t) {
  const int32_t batch = tiling->num_tiles / tiling->tiles_per_request;
  if (t >= tiling->num_tiles) return tiling->tiles_per_request * cost_before[batch];
  return t / batch * cost_before[batch] + cost_before[t % batch];
}

static void cut_forced(const fm_problem *problem, const fm_tiling *tiling, fm_cut *cuts) {
  for (int32_t w = 0; w < tiling->num_parts; ++w) {
    const int32_t tile = w / tiling->num_splits, split = w % tiling->num_splits;
    const int64_t pages = pages_of(problem, tile % problem->batch);
    cuts[w] = (fm_cut){tile, (int32_t)(split * pages / tiling->num_splits)};
  }
}

static void cut_whole_tiles(const fm_tiling *tiling, int64_t tiles_per_part, fm_cut *cuts) {
  for (int32_t w = 0; w < tiling->num_parts; ++w)
    cuts[w] = (fm_cut){(int32_t)fm_min64(w * tiles_per_part, tiling->num_tiles), 0};
}

static void cut_evenly(const fm_tiling *tiling, const int64_t *cost_before, int64_t part_cost, fm_cut *cuts) {
  const int32_t batch = tiling->num_tiles / tiling->tiles_per_request;
  const int64_t column_cost = cost_before[batch];
  int64_t column = 0; /* positions only grow, so the tile that holds them does too */
  int32_t request = 0;
  for (int32_t w = 0; w < tiling->num_parts; ++w) {
    const int64_t position = w * part_cost;
    for (; column < position / column_cost; ++column) request = 0;
    if (column >= tiling->tiles_per_request) {
      cuts[w] = (fm_cut){tiling->num_tiles, 0};
      continue;
    }
    const int64_t offset = position - column * column_cost;
    while (cost_before[request + 1] <= offset) ++request;
    const int64_t page = offset - cost_before[request] - tiling->start_overhead;
    cuts[w] = (fm_cut){(int32_t)(column * batch + request), (int32_t)(page > 0 ? page : 0)};
  }
}

void fm_schedule_on_host(const fm_problem *problem, const fm_tiling *tiling, fm_cut *cuts, int64_t *cost_before) {
  cost_before[0] = 0;
  for (int32_t i = 0; i < problem->batch; ++i)
    cost_before[i + 1] = cost_before[i] + pages_of(problem, i) + tiling->start_overhead;

  cuts[tiling->num_parts] = (fm_cut){tiling->num_tiles, 0};
  if (tiling->num_splits > 0) {
    cut_forced(problem, tiling, cuts);
    return;
  }
  const int64_t tiles_per_part = fm_ceil_div(tiling->num_tiles, tiling->num_parts);
  const int64_t part_cost = fm_ceil_div(tiling->tiles_per_request * cost_before[problem->batch], tiling->num_parts);
  int64_t worst = 0; /* cost of the most expensive part of whole tiles */
  for (int32_t w = 0; w < tiling->num_parts; ++w) {
    const int64_t cost = cost_at(tiling, cost_before, (w + INT64_C(1)) * tiles_per_part) -
                         cost_at(tiling, cost_before, w * tiles_per_part);
    if (cost > worst) worst = cost;
  }
  if (worst <= part_cost + tiling->start_overhead + tiling->split_overhead)
    cut_whole_tiles(tiling, tiles_per_part, cuts);
  else
    cut_evenly(tiling, cost_before, part_cost, cuts);
}

static bool is_before(fm_cut a, fm_cut b) { return a.tile < b.tile || (a.tile == b.tile && a.page < b.page); }

flashmla_status fm_check_schedule(const fm_tiling *tiling, const fm_cut *cuts, bool partials) {
  const fm_cut begin = {0, 0}, end = {tiling->num_tiles, 0};
  for (int32_t w = 0; w <= tiling->num_parts; ++w) {
    const fm_cut cut = cuts[w], before = w > 0 ? cuts[w - 1] : begin;
    const bool in_order = cut.page >= 0 && !is_before(cut, before) && !is_before(end, cut);
    const bool complete = (w > 0 || !is_before(begin, cut)) && (w < tiling->num_parts || !is_before(cut, end));
    if (!in_order || !complete || (cut.page != 0 && !partials))
      return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH,
                     "the plan's buffer no longer holds its schedule: entry %d of %d is (tile %d, page %d)", w,
                     tiling->num_parts + 1, cut.tile, cut.page);
  }
  return FLASHMLA_OK;
}
