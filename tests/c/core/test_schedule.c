/* The host scheduler against the definition in internal.h, written out tile by tile. */
#include "check.h"
#include "fake_backend.h"

enum { MAX_BATCH = 40, MAX_TILES = 4096, MAX_PARTS = 4096 };

static uint32_t state = 1;

/* Uniform in [low, high], from a linear congruential generator. */
static int32_t draw(int32_t low, int32_t high) {
  state = state * 1664525u + 1013904223u;
  return low + (int32_t)((uint64_t)(state >> 8) * (uint64_t)(high - low + 1) >> 24);
}

typedef struct work {
  int32_t tiles;
  int64_t pages[MAX_TILES]; /* n_i of each tile */
  int64_t at[MAX_TILES + 1];
} work;

static work list_tiles(const fm_problem *p, const fm_tiling *t) {
  work w = {.tiles = 0};
  for (int32_t column = 0; column < t->tiles_per_request; ++column) {
    for (int32_t i = 0; i < p->batch; ++i) {
      int64_t length = p->cache_seqlens[i], capacity = (int64_t)p->max_blocks * p->page_size;
      length = length < 0 ? 0 : length > capacity ? capacity : length;
      w.pages[w.tiles] = (length + p->page_size - 1) / p->page_size;
      w.at[w.tiles + 1] = w.at[w.tiles] + w.pages[w.tiles] + t->start_overhead;
      ++w.tiles;
    }
  }
  return w;
}

static int64_t at(const work *w, int64_t tile) { return w->at[tile < w->tiles ? tile : w->tiles]; }

static void check_definition(const fm_tiling *t, const work *w, const fm_cut *cuts) {
  if (t->num_splits > 0) {
    for (int32_t i = 0; i < t->num_parts; ++i) {
      const int32_t tile = i / t->num_splits;
      CHECK(cuts[i].tile == tile && cuts[i].page == i % t->num_splits * w->pages[tile] / t->num_splits);
    }
    return;
  }
  const int64_t total = w->at[w->tiles], share = (total + t->num_parts - 1) / t->num_parts;
  const int64_t whole = (w->tiles + t->num_parts - 1) / t->num_parts;
  int64_t worst = 0;
  for (int64_t i = 0; i < t->num_parts; ++i) {
    const int64_t cost = at(w, (i + 1) * whole) - at(w, i * whole);
    if (cost > worst) worst = cost;
  }
  for (int64_t i = 0; i < t->num_parts; ++i) {
    int64_t tile = i * whole < w->tiles ? i * whole : w->tiles, page = 0;
    if (worst > share + t->start_overhead + t->split_overhead) {
      tile = 0;
      while (tile < w->tiles && w->at[tile + 1] <= i * share) ++tile;
      page = tile < w->tiles ? i * share - w->at[tile] - t->start_overhead : 0;
      if (page < 0) page = 0;
    }
    CHECK(cuts[i].tile == tile && cuts[i].page == page);
  }
}

/* Cuts never go back, begin at the beginning, stay inside their tile, and end at the end. */
static void check_order(const fm_tiling *t, const work *w, const fm_cut *cuts) {
  CHECK(cuts[0].tile == 0 && cuts[0].page == 0);
  CHECK(cuts[t->num_parts].tile == w->tiles && cuts[t->num_parts].page == 0);
  for (int32_t i = 0; i < t->num_parts; ++i) {
    CHECK(cuts[i].tile < cuts[i + 1].tile || (cuts[i].tile == cuts[i + 1].tile && cuts[i].page <= cuts[i + 1].page));
    CHECK(cuts[i].page == 0 || cuts[i].page < w->pages[cuts[i].tile]);
  }
}

/* A schedule is taken for one; with one of its entries spoiled it is not. */
static void check_recognised(const fm_tiling *t, fm_cut *cuts) {
  const bool partials = t->num_splits != 1 && t->num_parts > 1;
  CHECK_OK(fm_check_schedule(t, cuts, partials));
  const int32_t which = draw(0, t->num_parts);
  const fm_cut kept = cuts[which];
  const fm_cut spoiled[] = {
      {-1, 0}, {kept.tile, -1}, {t->num_tiles, 1}, {t->num_tiles + 1, 0}, {INT32_MIN, INT32_MAX}, {INT32_MAX, 0}};
  for (size_t i = 0; i < sizeof spoiled / sizeof *spoiled; ++i) {
    cuts[which] = spoiled[i];
    CHECK(fm_check_schedule(t, cuts, partials) == FLASHMLA_ERROR_PLAN_MISMATCH);
  }
  cuts[which] = kept;
  for (int32_t w = 0; w <= t->num_parts; ++w)
    if (cuts[w].page > 0) {
      CHECK(fm_check_schedule(t, cuts, false) == FLASHMLA_ERROR_PLAN_MISMATCH);
      break;
    }
}

static void one_case(void) {
  static fm_cut cuts[MAX_PARTS + 1];
  static int64_t cost_before[MAX_BATCH + 1];
  int32_t lengths[MAX_BATCH];
  fake.limits = (fm_backend_limits){.block_rows = 64,
                                    .max_cluster = draw(1, 2),
                                    .workers = draw(1, 140),
                                    .start_overhead = draw(1, 8),
                                    .split_overhead = draw(0, 20)};
  fm_problem p = {.batch = draw(1, MAX_BATCH), .s_q = draw(1, 4), .h_kv = draw(1, 3), .page_size = draw(1, 70)};
  p.h_q = p.h_kv * draw(1, 130);
  p.max_blocks = draw(1, 60);
  p.cache_seqlens = lengths;
  const int32_t longest = draw(0, 1) ? p.max_blocks * p.page_size : draw(0, 100);
  for (int32_t i = 0; i < p.batch; ++i) lengths[i] = draw(0, 9) == 0 ? draw(-5, 100000) : draw(0, longest);
  fm_tiling t;
  CHECK_OK(fm_tile(&p, draw(0, 2) == 0 ? draw(1, 9) : 0, &t));
  if (t.num_tiles > MAX_TILES || t.num_parts > MAX_PARTS) return;
  fm_schedule_on_host(&p, &t, cuts, cost_before);
  const work w = list_tiles(&p, &t);
  for (int32_t i = 0; i <= p.batch; ++i) CHECK(cost_before[i] == w.at[i]);
  check_definition(&t, &w, cuts);
  check_order(&t, &w, cuts);
  check_recognised(&t, cuts);
}

/* The largest numbers stay inside 64 bits (UBSan watches): every request at a capacity beyond int32. */
static void huge_lengths(void) {
  static int32_t lengths[MAX_BATCH];
  static fm_cut cuts[64];
  static int64_t cost_before[MAX_BATCH + 1];
  for (int i = 0; i < MAX_BATCH; ++i) lengths[i] = INT32_MAX;
  fm_problem p = {
      .batch = MAX_BATCH, .s_q = 1, .h_q = 1 << 25, .h_kv = 1 << 25, .page_size = 1, .max_blocks = INT32_MAX};
  p.cache_seqlens = lengths;
  fake.limits = (fm_backend_limits){.block_rows = 64, .max_cluster = 1, .workers = 63, .start_overhead = 4};
  fm_tiling t;
  CHECK_OK(fm_tile(&p, 0, &t));
  fm_schedule_on_host(&p, &t, cuts, cost_before);
  CHECK(cost_before[MAX_BATCH] == MAX_BATCH * (INT64_C(4) + INT32_MAX));
  p.page_size = p.max_blocks = 1 << 30;
  fm_schedule_on_host(&p, &t, cuts, cost_before);
  CHECK(cost_before[1] == 4 + 2);
}

int main(void) {
  for (int i = 0; i < 3000; ++i) one_case();
  huge_lengths();
  return 0;
}
