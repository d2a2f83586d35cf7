/* The host scheduler against the definition in schedule.h, written out tile by tile. */
#include "check.h"
#include "schedule/schedule.h"

enum { MAX_BATCH = 40, MAX_TILES = 4096, MAX_PARTS = 4096 };

static uint32_t state = 1;

/* Uniform in [low, high], from a linear congruential generator. */
static int32_t draw(int32_t low, int32_t high) {
  state = state * 1664525u + 1013904223u;
  return low + (int32_t)((uint64_t)(state >> 8) * (uint64_t)(high - low + 1) >> 24);
}

typedef struct list {
  int32_t tiles;
  int64_t units[MAX_TILES]; /* n_i of each tile; 0 where the tile is dead */
  bool dead[MAX_TILES];
  int64_t at[MAX_TILES + 1];
} list;

/* Units of a batch-invariant piece: a quarter, but piece_units at least and at most twice as many; no more than
 * FM_MAX_PIECES pieces. */
static int64_t invariant_size(const fm_tiling *t, int64_t units) {
  int64_t size = t->piece_units;
  while (size < 2 * t->piece_units && 4 * size < units) size++;
  while (FM_MAX_PIECES * size < units) size++;
  return size;
}

static int64_t pieces_of(const fm_tiling *t, int64_t units) {
  int64_t pieces = 1;
  while (pieces * invariant_size(t, units) < units) pieces++;
  return pieces;
}

static void add_tile(list *w, const fm_work *p, const fm_tiling *t, int32_t i, int32_t k) {
  int64_t length = p->lengths[i];
  length = length < 0 ? 0 : length > p->capacity ? p->capacity : length;
  /* The first token of the tile's first block, of the tokens that the request has. */
  const int64_t token = (int64_t)k * t->cluster / t->head_chunks * t->block_tokens;
  w->dead[w->tiles] = token >= fm_query_range_of(p, i).count;
  w->units[w->tiles] = (length + t->unit - 1) / t->unit;
  const int64_t cost = t->piece_units > 0 ? pieces_of(t, w->units[w->tiles]) : w->units[w->tiles] + t->start_overhead;
  w->at[w->tiles + 1] = w->at[w->tiles] + (w->dead[w->tiles] ? 0 : cost);
  ++w->tiles;
}

static void list_tiles(const fm_work *p, const fm_tiling *t, list *w) {
  w->tiles = 0;
  if (t->request_major) {
    for (int32_t i = 0; i < p->batch; ++i)
      for (int32_t column = 0; column < t->tiles_per_request; ++column)
        add_tile(w, p, t, i, column % t->tiles_per_head);
  } else {
    for (int32_t column = 0; column < t->tiles_per_request; ++column)
      for (int32_t i = 0; i < p->batch; ++i) add_tile(w, p, t, i, column % t->tiles_per_head);
  }
}

/* Where part i begins, of at most `most` parts of a tile in pieces of `size` units: first the pieces, then nothing. */
static fm_cut piece_cut(const list *w, int64_t i, int32_t most, int64_t size) {
  const int64_t tile = i / most, piece = i % most;
  if (tile >= w->tiles) return (fm_cut){w->tiles, 0};
  const int64_t pieces = w->dead[tile] ? 0 : w->units[tile] == 0 ? 1 : (w->units[tile] + size - 1) / size;
  CHECK(pieces <= most);
  return piece < pieces ? (fm_cut){(int32_t)tile, (int32_t)(piece * size)} : (fm_cut){(int32_t)tile + 1, 0};
}

/* Units of a piece, when there shall be no more than `pieces` of a tile, and one where it is not worth more. */
static int64_t piece_size(const fm_tiling *t, const list *w, int64_t tile, int64_t pieces) {
  if (tile >= w->tiles) return 1;
  if (w->units[tile] <= t->whole_units) pieces = 1;
  const int64_t size = (w->units[tile] + pieces - 1) / pieces;
  return size > 1 ? size : 1;
}

/* A tile in equal pieces, as many as it has units at most; then nothing. */
static fm_cut forced_cut(const list *w, int32_t i, int32_t splits) {
  const int32_t tile = i / splits, split = i % splits;
  int64_t pieces = splits;
  while (pieces > 1 && pieces > w->units[tile]) --pieces;
  return split < pieces ? (fm_cut){tile, (int32_t)(split * w->units[tile] / pieces)} : (fm_cut){tile + 1, 0};
}

static fm_cut even_cut(const fm_tiling *t, const list *w, int64_t position) {
  int32_t tile = 0;
  while (tile < w->tiles && w->at[tile + 1] <= position) ++tile;
  const int64_t unit = tile < w->tiles ? position - w->at[tile] - t->start_overhead : 0;
  return (fm_cut){tile, (int32_t)(unit < 0 ? 0 : unit)};
}

static fm_cut wanted_cut(const fm_tiling *t, const list *w, int32_t i) {
  if (t->piece_units > 0) {
    int32_t tile = 0;
    while (tile < w->tiles && w->at[tile + 1] <= i) ++tile;
    const int64_t unit = tile < w->tiles ? (i - w->at[tile]) * invariant_size(t, w->units[tile]) : 0;
    return (fm_cut){tile, (int32_t)unit};
  }
  if (t->num_splits > 0) return forced_cut(w, i, t->num_splits);
  /* Every band has its own parts, all alike; what is left over has none. */
  const int32_t parts = t->num_parts / t->bands, tiles = w->tiles / t->bands, band = i / parts, inside = i % parts;
  const int64_t cost_of_band = w->at[tiles], share = (cost_of_band + parts - 1) / parts;
  const int64_t whole = (tiles + parts - 1) / parts;
  const int32_t pieces = t->num_parts / w->tiles;
  int64_t worst = 0; /* of the parts that are aligned with tiles */
  for (int64_t k = 0; pieces == 0 && k < tiles; k += whole) {
    const int64_t cost = w->at[k + whole < tiles ? k + whole : tiles] - w->at[k];
    if (cost > worst) worst = cost;
  }
  for (int32_t tile = 0; pieces > 0 && tile < w->tiles; ++tile) {
    const int64_t cost = piece_size(t, w, tile, pieces) + t->start_overhead;
    if (cost > worst) worst = cost;
  }
  if (worst > share + t->start_overhead + (pieces > 1 ? 1 : t->split_overhead)) {
    const int64_t within = inside * share < cost_of_band ? inside * share : cost_of_band;
    return even_cut(t, w, band * cost_of_band + within);
  }
  if (pieces > 0) return piece_cut(w, i, pieces, piece_size(t, w, i / pieces, pieces));
  const int64_t tile = band * tiles + (inside * whole < tiles ? inside * whole : tiles);
  return (fm_cut){(int32_t)(tile < w->tiles ? tile : w->tiles), 0};
}

static void check_definition(const fm_tiling *t, const list *w, const fm_cut *cuts) {
  for (int32_t i = 1; i < t->num_parts; ++i) { /* cut 0 is the begin, whatever is dead */
    const fm_cut wanted = wanted_cut(t, w, i);
    CHECK(cuts[i].tile == wanted.tile && cuts[i].unit == wanted.unit);
  }
}

/* Cuts never go back, begin at the beginning, stay inside their tile, and end at the end. */
static void check_order(const fm_tiling *t, const list *w, const fm_cut *cuts) {
  CHECK(cuts[0].tile == 0 && cuts[0].unit == 0);
  CHECK(cuts[t->num_parts].tile == w->tiles && cuts[t->num_parts].unit == 0);
  for (int32_t i = 0; i < t->num_parts; ++i) {
    CHECK(cuts[i].tile < cuts[i + 1].tile || (cuts[i].tile == cuts[i + 1].tile && cuts[i].unit <= cuts[i + 1].unit));
    CHECK(cuts[i].unit == 0 || cuts[i].unit < w->units[cuts[i].tile]);
  }
}

/* With one slot a part, no part has two pieces of split tiles. */
static void check_slots(const fm_tiling *t, const fm_cut *cuts) {
  if (t->slots_per_part == 2) return;
  for (int32_t i = 0; i < t->num_parts; ++i)
    CHECK(cuts[i].unit == 0 || cuts[i + 1].unit == 0 || cuts[i].tile == cuts[i + 1].tile);
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
    if (cuts[w].unit > 0) {
      CHECK(fm_check_schedule(t, cuts, false) == FLASHMLA_ERROR_PLAN_MISMATCH);
      break;
    }
}

/* Lengths of queries that sum up, or offsets out of order and range. */
static void draw_offsets(fm_work *p, int32_t *offsets) {
  int32_t total = 0;
  for (int32_t i = 0; i <= p->batch; ++i) {
    offsets[i] = total;
    total += draw(0, 2) == 0 ? 0 : draw(0, p->s_q + 1);
  }
  p->total_q = total > 0 ? total : 1;
  for (int32_t i = 0; i <= p->batch && draw(0, 3) == 0; ++i) offsets[i] = draw(-3, p->total_q + 3);
  if (draw(0, 9) == 0) offsets[draw(0, p->batch)] = draw(0, 1) ? INT32_MIN : INT32_MAX;
  p->varlen = true;
  p->cu_seqlens_q = offsets;
}

static void one_case(void) {
  static fm_cut cuts[MAX_PARTS + 1];
  static list w;
  static int64_t cost_before[MAX_BATCH + 1];
  int32_t lengths[MAX_BATCH], offsets[MAX_BATCH + 1];
  const fm_limits limits = {.block_rows = 64,
                            .max_cluster = draw(1, 2),
                            .workers = draw(1, 140),
                            .start_overhead = draw(1, 8),
                            .split_overhead = draw(0, 20),
                            .unit = draw(1, 70),
                            .piece_units = draw(1, 20),
                            .whole_units = draw(0, 5)};
  fm_work p = {.batch = draw(1, MAX_BATCH), .s_q = draw(1, 4), .h_kv = draw(1, 3)};
  p.h_q = p.h_kv * draw(1, 130);
  p.capacity = draw(1, 60) * draw(1, 70);
  p.lengths = lengths;
  p.batch_invariant = draw(0, 3) == 0;
  if (draw(0, 1)) draw_offsets(&p, offsets);
  const int32_t longest = draw(0, 1) ? p.capacity : draw(0, 100);
  for (int32_t i = 0; i < p.batch; ++i) lengths[i] = draw(0, 9) == 0 ? draw(-5, 100000) : draw(0, longest);
  fm_tiling t;
  p.num_splits = draw(0, 2) == 0 && !p.batch_invariant ? draw(1, 9) : 0;
  CHECK_OK(fm_tile(&p, limits, &t));
  if (t.num_tiles > MAX_TILES || t.num_parts > MAX_PARTS) return;
  CHECK(t.request_major == p.varlen && t.slots_per_part == (t.num_splits > 0 ? 1 : 2));
  fm_schedule_on_host(&p, &t, (fm_schedule){cuts, cost_before});
  list_tiles(&p, &t, &w);
  for (int32_t i = 0; i <= p.batch; ++i) CHECK(cost_before[i] == w.at[t.request_major ? i * t.tiles_per_request : i]);
  check_definition(&t, &w, cuts);
  check_order(&t, &w, cuts);
  check_slots(&t, cuts);
  check_recognised(&t, cuts);
}

static const fm_limits limits_of_a_gpu = {
    .block_rows = 64, .max_cluster = 2, .workers = 132, .start_overhead = 4, .unit = 64, .piece_units = 16};

/* The pieces of a request are those it has alone, whatever is beside it and however long its table is. */
static void own_length_alone(void) {
  static fm_cut together[MAX_PARTS + 1], alone[MAX_PARTS + 1];
  static int64_t cost_before[MAX_BATCH + 1];
  const int32_t lengths[] = {0, 1, 1000, 5000, 2000000, 64 * 16, 64 * 16 + 1};
  enum { REQUESTS = sizeof lengths / sizeof lengths[0] };
  fm_work p = {.batch = REQUESTS, .s_q = 1, .h_q = 16, .h_kv = 1, .capacity = 64 * 40000, .lengths = lengths};
  p.batch_invariant = true;
  fm_tiling all, one;
  CHECK_OK(fm_tile(&p, limits_of_a_gpu, &all));
  CHECK(all.num_splits == FM_MAX_PIECES && all.num_parts == FM_MAX_PIECES * REQUESTS);
  fm_schedule_on_host(&p, &all, (fm_schedule){together, cost_before});
  int32_t w = 0;
  for (int32_t i = 0; i < REQUESTS; ++i) {
    p.batch = 1;
    p.capacity = lengths[i] + 64;
    p.lengths = &lengths[i];
    CHECK_OK(fm_tile(&p, limits_of_a_gpu, &one));
    fm_schedule_on_host(&p, &one, (fm_schedule){alone, cost_before});
    for (int32_t piece = 0; piece < one.num_splits && alone[piece].tile == 0; ++piece, ++w)
      CHECK(together[w].tile == i && together[w].unit == alone[piece].unit);
  }
  CHECK(together[w].tile == REQUESTS); /* and no piece more */
}

/* No query tokens at all: nothing is worth a part, and every tile is in one all the same. */
static void dead_tiles_alone(void) {
  static fm_cut cuts[MAX_PARTS + 1];
  static int64_t cost_before[MAX_BATCH + 1];
  const int32_t lengths[4] = {100, 5000, 64, 7}, offsets[5] = {3, 3, 3, 3, 3};
  fm_work p = {.batch = 4, .s_q = 2, .h_q = 100, .h_kv = 1, .capacity = 16 * 400, .varlen = true, .total_q = 3};
  p.cu_seqlens_q = offsets;
  p.lengths = lengths;
  for (int invariant = 0; invariant < 2; ++invariant) {
    fm_tiling t;
    p.batch_invariant = invariant;
    CHECK_OK(fm_tile(&p, limits_of_a_gpu, &t));
    fm_schedule_on_host(&p, &t, (fm_schedule){cuts, cost_before});
    CHECK(cost_before[4] == 0 && cuts[0].tile == 0 && cuts[t.num_parts].tile == t.num_tiles);
    for (int32_t w = 0; w < t.num_parts; ++w) CHECK(cuts[w].unit == 0 && cuts[w].tile <= cuts[w + 1].tile);
  }
}

/* The largest numbers stay inside 64 bits (UBSan watches): every request at a capacity beyond int32. */
static void huge_lengths(void) {
  static int32_t lengths[MAX_BATCH];
  static fm_cut cuts[64];
  static int64_t cost_before[MAX_BATCH + 1];
  for (int i = 0; i < MAX_BATCH; ++i) lengths[i] = INT32_MAX;
  fm_work p = {.batch = MAX_BATCH, .s_q = 1, .h_q = 1 << 25, .h_kv = 1 << 25, .capacity = INT32_MAX};
  p.lengths = lengths;
  fm_limits limits = {.block_rows = 64, .max_cluster = 1, .workers = 63, .start_overhead = 4, .unit = 1};
  fm_tiling t;
  CHECK_OK(fm_tile(&p, limits, &t));
  fm_schedule_on_host(&p, &t, (fm_schedule){cuts, cost_before});
  CHECK(cost_before[MAX_BATCH] == MAX_BATCH * (INT64_C(4) + INT32_MAX));
  limits.unit = 64;
  CHECK_OK(fm_tile(&p, limits, &t));
  fm_schedule_on_host(&p, &t, (fm_schedule){cuts, cost_before});
  CHECK(cost_before[1] == 4 + (1 << 25));
  int32_t offsets[MAX_BATCH + 1];
  for (int i = 0; i <= MAX_BATCH; ++i) offsets[i] = i;
  p.varlen = true;
  p.total_q = MAX_BATCH;
  p.cu_seqlens_q = offsets;
  limits.unit = 1;
  CHECK_OK(fm_tile(&p, limits, &t));
  fm_schedule_on_host(&p, &t, (fm_schedule){cuts, cost_before});
  CHECK(cost_before[MAX_BATCH] == MAX_BATCH * (INT64_C(4) + INT32_MAX) << 25);
}

int main(void) {
  for (int i = 0; i < 3000; ++i) one_case();
  own_length_alone();
  dead_tiles_alone();
  huge_lengths();
  return 0;
}
