/* The host scheduler against the definition in schedule.h, written out tile by tile. */
#include "check.h"
#include "schedule/schedule.h"

enum { MAX_BATCH = 40, MAX_TILES = 4096, MAX_PARTS = 4096, MAX_ITEMS = 1 << 20 };

static uint32_t state = 1;
static int levels[3]; /* schedules of each */
static int32_t cases;

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

/* Batch invariant: quanta of a tile. */
static int64_t quanta_of(const fm_tiling *t, int64_t units) {
  int64_t quanta = 1;
  while (quanta * t->piece_units < units) quanta++;
  return quanta;
}

/* Batch invariant: whether item begins at a quantum, of pieces of 1 quantum and then of 2, of nodes of 8, or of tiles.
 */
static bool begins(int64_t quantum, int32_t level) {
  const int64_t piece = quantum < 8 ? quantum : (quantum + 8) / 2;
  const bool is_piece = quantum < 8 || quantum % 2 == 0;
  return level == 0 ? is_piece : level == 1 ? is_piece && piece % 8 == 0 : quantum == 0;
}

/* Items from one cut to another one of a tile, or to its end. */
static int32_t count_items(int64_t quantum, int64_t end, int32_t level) {
  int32_t items = 0;
  for (; quantum < end; quantum++) items += begins(quantum, level);
  return items;
}

/* What a tile of so many units costs up to a quantum at which a piece begins, or up to its end. */
static int64_t cost_up_to(const fm_tiling *t, int64_t units, int64_t quantum) {
  if (quantum == 0) return 0;
  const int64_t whole = units > 0 ? units : 1, all = quantum * t->piece_units;
  return t->start_overhead + (all < whole ? all : whole) + t->piece_overhead * count_items(0, quantum, 0);
}

/* Units that hold the items of a kind. */
static int64_t units_of(const fm_tiling *t, const int32_t *lengths, int32_t i, int32_t capacity) {
  int64_t length = lengths == NULL ? capacity : lengths[i];
  length = length < 0 ? 0 : length > capacity ? capacity : length;
  return (length + t->unit - 1) / t->unit;
}

static void add_tile(list *w, const fm_work *p, const fm_tiling *t, int32_t i, int32_t k) {
  /* The first token of the tile's first block, of the tokens that the request has. */
  const int64_t token = (int64_t)k * t->cluster / t->head_chunks * t->block_tokens;
  w->dead[w->tiles] = token >= fm_query_range_of(p, i).count;
  w->units[w->tiles] = units_of(t, p->lengths, i, p->capacity) + units_of(t, p->extra_lengths, i, p->extra_capacity);
  const int64_t units = w->units[w->tiles];
  const int64_t cost = t->piece_units > 0 ? cost_up_to(t, units, quanta_of(t, units)) : units + t->start_overhead;
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

static int32_t level_of(const fm_tiling *t, fm_schedule s) { return s.first_slot[t->num_parts + 1]; }

static fm_cut even_cut(const fm_tiling *t, const list *w, int64_t position) {
  int32_t tile = 0;
  while (tile < w->tiles && w->at[tile + 1] <= position) ++tile;
  const int64_t unit = tile < w->tiles ? position - w->at[tile] - t->start_overhead : 0;
  return (fm_cut){tile, (int32_t)(unit < 0 ? 0 : unit)};
}

/* The items of a band: where each begins, and where that lies. */
typedef struct item_list {
  int32_t number;
  int64_t at[MAX_ITEMS + 1];
  fm_cut cuts[MAX_ITEMS + 1];
} item_list;

static void add_item(item_list *items, int64_t at, int64_t tile, int64_t unit) {
  CHECK(items->number <= MAX_ITEMS);
  items->at[items->number] = at;
  items->cuts[items->number++] = (fm_cut){(int32_t)tile, (int32_t)unit};
}

static void list_items(const fm_tiling *t, const list *w, int32_t level, item_list *items) {
  const int32_t tiles = w->tiles / t->bands;
  items->number = 0;
  for (int32_t tile = 0; tile < tiles; ++tile)
    for (int64_t q = 0; !w->dead[tile] && q < quanta_of(t, w->units[tile]); q++)
      if (begins(q, level)) add_item(items, w->at[tile] + cost_up_to(t, w->units[tile], q), tile, q * t->piece_units);
  add_item(items, w->at[tiles], tiles, 0);
}

/* The item with which part `part` of a band begins, if each takes as many as `budget` allows; -1: one allows none. */
static int32_t first_item(const item_list *items, int64_t budget, int32_t part) {
  int32_t i = 0;
  for (int32_t w = 0; w < part && i < items->number - 1; w++) {
    const int32_t before = i;
    while (i < items->number - 1 && items->at[i + 1] - items->at[before] <= budget) ++i;
    if (i == before) return -1;
  }
  return i;
}

static int64_t budget_of(const fm_tiling *t, const list *w, const item_list *items, int32_t level) {
  const int32_t parts = t->num_parts / t->bands, tiles = w->tiles / t->bands;
  const int64_t in_item = level == 0 ? 1 : level == 1 ? 8 : 1 << 30;
  int64_t most = 0;
  for (int32_t tile = 0; tile < tiles; ++tile) most = fm_max64(most, w->at[tile + 1] - w->at[tile]);
  most = fm_min64(most, t->start_overhead + in_item * (2 * t->piece_units + t->piece_overhead));
  for (int64_t d = 0; d < 64; d++) {
    const int64_t budget = (w->at[tiles] + parts - 1) / parts + d * (most / 63 + 1);
    if (first_item(items, budget, parts) == items->number - 1) return budget;
  }
  CHECK(false);
  return 0;
}

static fm_cut invariant_cut(const fm_tiling *t, const list *w, int32_t i, int32_t level) {
  static item_list items;
  static int64_t budget;
  static const void *of = NULL;
  static int32_t of_level, of_case;
  if (of != w || of_level != level || of_case != cases) { /* the same for all parts */
    list_items(t, w, level, &items);
    budget = budget_of(t, w, &items, level);
    of = w, of_level = level, of_case = cases;
  }
  const int32_t parts = t->num_parts / t->bands, tiles = w->tiles / t->bands, band = i / parts;
  if (band >= t->bands) return (fm_cut){w->tiles, 0};
  const fm_cut cut = items.cuts[first_item(&items, budget, i % parts)];
  return (fm_cut){band * tiles + cut.tile, cut.unit};
}

static fm_cut wanted_cut(const fm_tiling *t, const list *w, int32_t i, int32_t level) {
  if (t->num_splits > 0) return forced_cut(w, i, t->num_splits);
  if (t->piece_units > 0) return invariant_cut(t, w, i, level);
  /* Every band has its own parts, all alike; what is left over has none. */
  const int32_t parts = t->num_parts / t->bands, tiles = w->tiles / t->bands, band = i / parts, inside = i % parts;
  const int64_t cost_of_band = w->at[tiles], share = (cost_of_band + parts - 1) / parts;
  const int64_t within = inside * share < cost_of_band ? inside * share : cost_of_band;
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
  if (worst > share + t->start_overhead + (pieces > 1 ? 1 : t->split_overhead))
    return even_cut(t, w, band * cost_of_band + within);
  if (pieces > 0) return piece_cut(w, i, pieces, piece_size(t, w, i / pieces, pieces));
  const int64_t tile = band * tiles + (inside * whole < tiles ? inside * whole : tiles);
  return (fm_cut){(int32_t)(tile < w->tiles ? tile : w->tiles), 0};
}

static void check_definition(const fm_tiling *t, const list *w, fm_schedule s) {
  const int32_t level = t->piece_units > 0 ? level_of(t, s) : 0;
  for (int32_t i = 1; i < t->num_parts; ++i) { /* cut 0 is the begin, whatever is dead */
    const fm_cut wanted = wanted_cut(t, w, i, level);
    CHECK(s.cuts[i].tile == wanted.tile && s.cuts[i].unit == wanted.unit);
  }
}

/* Slots that a part takes with cuts at a level, one before and one behind it. */
static int32_t count_stored(const fm_tiling *t, const list *w, fm_cut from, fm_cut to, int32_t level) {
  const int64_t p = t->piece_units;
  if (from.unit > 0 && from.tile == to.tile) return count_items(from.unit / p, to.unit / p, level);
  const int32_t tail = from.unit > 0 ? count_items(from.unit / p, quanta_of(t, w->units[from.tile]), level) : 0;
  return tail + (to.unit > 0 ? count_items(0, to.unit / p, level) : 0);
}

/* Slots in turn behind the carries, at the finest level for which there are enough. */
static void check_stored(const fm_tiling *t, const list *w, fm_schedule s) {
  const int32_t level = level_of(t, s);
  CHECK(level >= 0 && level <= 2);
  levels[level]++;
  for (int32_t finer = 0; finer < level; finer++) {
    int64_t slots = (int64_t)t->carries * t->num_parts;
    for (int32_t i = 0; i < t->num_parts; ++i) {
      const fm_cut from = i == 0 ? (fm_cut){0, 0} : wanted_cut(t, w, i, finer);
      const fm_cut to = i + 1 == t->num_parts ? (fm_cut){w->tiles, 0} : wanted_cut(t, w, i + 1, finer);
      slots += count_stored(t, w, from, to, finer);
    }
    CHECK(slots > t->slots);
  }
  int64_t slot = (int64_t)t->carries * t->num_parts;
  for (int32_t i = 0; i < t->num_parts; ++i) {
    CHECK(s.first_slot[i] == slot);
    slot += count_stored(t, w, s.cuts[i], s.cuts[i + 1], level);
  }
  CHECK(s.first_slot[t->num_parts] == slot && (level == 2 || slot <= t->slots));
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
  if (t->slots_per_part == 2 || t->piece_units > 0) return;
  for (int32_t i = 0; i < t->num_parts; ++i)
    CHECK(cuts[i].unit == 0 || cuts[i + 1].unit == 0 || cuts[i].tile == cuts[i + 1].tile);
}

/* Where it is known before lengths are that no tile is split, none is. */
static int32_t known_whole;
static void check_whole(const fm_work *p, const fm_tiling *t, const fm_cut *cuts) {
  bool split = false;
  for (int32_t i = 0; i < t->num_parts; ++i) split |= cuts[i].unit > 0;
  CHECK(!t->whole || (p->full && !split && !fm_may_split(t) && fm_slots(t) == 0));
  known_whole += t->whole;
}

/* Cuts that are known without a schedule are those that it has; of which kinds there were some. */
static int32_t known_cuts, known_pieces, known_bands, known_even;
static void check_known(const fm_work *p, const fm_tiling *t, const fm_cut *cuts) {
  const fm_known_cuts known = fm_cuts_known(p, t);
  const bool one_part = t->num_splits == 1;
  CHECK((known.tile_cost > 0) == (t->piece_units == 0 && (one_part || (t->num_splits == 0 && p->full && !p->varlen))));
  if (known.tile_cost == 0) return;
  bool inside = false;
  for (int32_t i = 0; i <= t->num_parts; ++i) {
    const fm_cut cut = fm_cut_known(&known, i);
    CHECK(cut.tile == cuts[i].tile && cut.unit == cuts[i].unit);
    inside |= cut.unit > 0;
  }
  const bool pieces = known.first_cost > 0;
  known_cuts++;
  known_pieces += inside && pieces;
  known_bands += !pieces && t->bands > 1;
  known_even += inside && !pieces;
}

/* A schedule is taken for one; with one of its entries spoiled it is not. */
static void check_recognised(const fm_work *p, const fm_tiling *t, fm_schedule s) {
  CHECK_OK(fm_check_schedule(p, t, s));
  const int32_t which = draw(0, t->num_parts);
  const fm_cut kept = s.cuts[which];
  const fm_cut spoiled[] = {
      {-1, 0}, {kept.tile, -1}, {t->num_tiles, 1}, {t->num_tiles + 1, 0}, {INT32_MIN, INT32_MAX}, {INT32_MAX, 0}};
  for (size_t i = 0; i < sizeof spoiled / sizeof *spoiled; ++i) {
    s.cuts[which] = spoiled[i];
    CHECK(fm_check_schedule(p, t, s) == FLASHMLA_ERROR_PLAN_MISMATCH);
  }
  s.cuts[which] = kept;
  for (int32_t w = 0; w <= t->num_parts; ++w)
    if (s.cuts[w].unit > 0) {
      fm_tiling whole = *t;
      whole.num_splits = 1;
      whole.slots = 0;
      CHECK(fm_check_schedule(p, &whole, s) == FLASHMLA_ERROR_PLAN_MISMATCH);
      break;
    }
  if (t->piece_units == 0) return;
  const int32_t slot = s.first_slot[which], level = level_of(t, s);
  const int32_t slots[] = {-1, INT32_MIN, INT32_MAX, slot - t->slots - 1, slot + t->slots + 1};
  for (size_t i = 0; i < sizeof slots / sizeof *slots; ++i) {
    s.first_slot[which] = slots[i];
    CHECK(fm_check_schedule(p, t, s) == FLASHMLA_ERROR_PLAN_MISMATCH);
  }
  s.first_slot[which] = slot;
  const int32_t others[] = {-1, 3, INT32_MIN, INT32_MAX};
  for (size_t i = 0; i < sizeof others / sizeof *others; ++i) {
    s.first_slot[t->num_parts + 1] = others[i];
    CHECK(fm_check_schedule(p, t, s) == FLASHMLA_ERROR_PLAN_MISMATCH);
  }
  s.first_slot[t->num_parts + 1] = level;
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
  static int32_t first_slot[MAX_PARTS + 2];
  static list w;
  static int64_t cost_before[MAX_BATCH + 1];
  int32_t lengths[MAX_BATCH], extra[MAX_BATCH], offsets[MAX_BATCH + 1];
  const fm_limits limits = {.block_rows = 64,
                            .max_cluster = draw(1, 2),
                            .workers = draw(1, 140),
                            .start_overhead = draw(1, 8),
                            .split_overhead = draw(0, 20),
                            .unit = draw(1, 70),
                            .piece_units = draw(0, 3) == 0 ? 0 : draw(1, 20),
                            .piece_overhead = draw(0, 4),
                            .whole_units = draw(0, 5),
                            .join_overhead = draw(0, 2),
                            .unit_rows = draw(0, 1) ? draw(1, 5000) : 0,
                            .carries = draw(0, 2),
                            .max_slots = draw(0, 1) ? 1 << 20 : draw(2, 300),
                            .partial_bytes = 4,
                            .partial_facts = 1};
  fm_work p = {.batch = draw(1, MAX_BATCH), .s_q = draw(1, 4), .h_kv = draw(1, 3)};
  p.h_q = p.h_kv * draw(1, 130);
  p.capacity = draw(1, 60) * draw(1, 70);
  if (draw(0, 3) > 0) p.lengths = lengths;
  if (draw(0, 2) == 0) p.extra_capacity = draw(1, 500);
  if (draw(0, 2) > 0) p.extra_lengths = extra;
  p.own_items = draw(0, 1);
  p.full = p.lengths == NULL && (p.extra_lengths == NULL || p.extra_capacity == 0);
  p.batch_invariant = draw(0, 2) == 0;
  if (draw(0, 1)) draw_offsets(&p, offsets);
  const int32_t longest = draw(0, 1) ? p.capacity : draw(0, 100);
  for (int32_t i = 0; i < p.batch; ++i) {
    lengths[i] = draw(0, 9) == 0 ? draw(-5, 100000) : draw(0, longest);
    extra[i] = draw(-5, 600);
  }
  fm_tiling t;
  p.num_splits = draw(0, 2) == 0 ? draw(1, 9) : 0;
  CHECK_OK(fm_tile(&p, limits, 64, &t));
  if (t.num_tiles > MAX_TILES || t.num_parts > MAX_PARTS) return;
  CHECK(!p.own_items || t.block_tokens == fm_min32(p.s_q, 1));
  CHECK(t.request_major == p.varlen && t.slots_per_part == (t.num_splits > 0 ? 1 : 2));
  CHECK((t.piece_units > 0) == (p.batch_invariant && limits.piece_units > 0));
  CHECK(!p.batch_invariant || t.num_splits == (t.piece_units > 0 ? 0 : p.num_splits > 0 ? p.num_splits : 1));
  const fm_schedule schedule = {cuts, t.piece_units > 0 ? first_slot : NULL, cost_before};
  fm_schedule_on_host(&p, &t, schedule);
  list_tiles(&p, &t, &w);
  cases++;
  for (int32_t i = 0; i <= p.batch; ++i) CHECK(cost_before[i] == w.at[t.request_major ? i * t.tiles_per_request : i]);
  check_definition(&t, &w, schedule);
  if (t.piece_units > 0) check_stored(&t, &w, schedule);
  check_order(&t, &w, cuts);
  check_slots(&t, cuts);
  check_whole(&p, &t, cuts);
  check_known(&p, &t, cuts);
  check_recognised(&p, &t, schedule);
}

static const fm_limits limits_of_a_gpu = {.block_rows = 64,
                                          .max_cluster = 2,
                                          .workers = 132,
                                          .start_overhead = 4,
                                          .unit = 64,
                                          .piece_units = 16,
                                          .carries = 2,
                                          .max_slots = 1 << 20,
                                          .partial_bytes = 4,
                                          .partial_facts = 4};

/* There are never more live tiles than sizes allow for, and with some queries as many. */
static void most_live_tiles(void) {
  static fm_cut cuts[MAX_PARTS + 1];
  static int32_t first_slot[MAX_PARTS + 2];
  static int64_t cost_before[MAX_BATCH + 1];
  int32_t offsets[MAX_BATCH + 1], lengths[MAX_BATCH] = {0}, reached = 0;
  const fm_limits limits = {.block_rows = 8,
                            .max_cluster = 2,
                            .workers = 1 << 20,
                            .unit = 64,
                            .piece_units = 4,
                            .max_slots = 1 << 30,
                            .partial_bytes = 4,
                            .partial_facts = 1};
  for (int i = 0; i < 2000; i++) {
    fm_work p = {.batch = draw(1, 5), .s_q = draw(1, 9), .h_kv = draw(1, 2), .capacity = 1, .batch_invariant = true};
    p.h_q = p.h_kv * draw(1, 20);
    p.lengths = lengths;
    draw_offsets(&p, offsets);
    p.s_q = fm_min32(p.s_q, p.total_q);
    fm_tiling t;
    CHECK_OK(fm_tile(&p, limits, 64, &t));
    /* A tile costs 1, and there are no more parts than that. */
    fm_schedule_on_host(&p, &t, (fm_schedule){cuts, first_slot, cost_before});
    bool once = true; /* offsets may give a query token to several requests */
    for (int32_t r = 0; r < p.batch; r++) once &= offsets[r] >= 0 && offsets[r] <= offsets[r + 1];
    once &= offsets[p.batch] <= p.total_q;
    CHECK(!once || cost_before[p.batch] <= t.num_parts);
    reached += once && cost_before[p.batch] == t.num_parts;
  }
  CHECK(reached > 100);
}

/* Of full requests it is known where whole tiles are about as even as equal parts. */
static void whole_tiles_beforehand(void) {
  const fm_limits limits = {.block_rows = 64,
                            .max_cluster = 1,
                            .workers = 132,
                            .start_overhead = 3,
                            .split_overhead = 8,
                            .unit = 64,
                            .whole_units = 3,
                            .partial_bytes = 2,
                            .partial_facts = 4};
  const struct {
    int32_t batch, h_q;
    bool whole;
  } cases[] = {{128, 128, true}, {128, 64, true}, {132, 16, true}, {64, 64, false}, {100, 128, false}, {1, 16, false}};
  const int32_t offsets[133] = {0};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
    fm_work p = {
        .batch = cases[i].batch, .s_q = 1, .h_q = cases[i].h_q, .h_kv = 1, .capacity = 2048, .own_items = true};
    fm_tiling t;
    CHECK_OK(fm_tile(&p, limits, 512, &t));
    CHECK(!t.whole && fm_may_split(&t)); /* lengths may come */
    p.full = true;
    CHECK_OK(fm_tile(&p, limits, 512, &t));
    CHECK(t.whole == cases[i].whole && fm_may_split(&t) == !t.whole);
    fm_work varlen = p;
    varlen.varlen = true;
    varlen.total_q = p.batch;
    varlen.cu_seqlens_q = offsets;
    CHECK_OK(fm_tile(&varlen, limits, 512, &t));
    CHECK(!t.whole);
  }
}

/* No query tokens at all: nothing is worth a part, and every tile is in one all the same. */
static void dead_tiles_alone(void) {
  static fm_cut cuts[MAX_PARTS + 1];
  static int32_t first_slot[MAX_PARTS + 2];
  static int64_t cost_before[MAX_BATCH + 1];
  const int32_t lengths[4] = {100, 5000, 64, 7}, offsets[5] = {3, 3, 3, 3, 3};
  fm_work p = {.batch = 4, .s_q = 2, .h_q = 100, .h_kv = 1, .capacity = 16 * 400, .varlen = true, .total_q = 3};
  p.cu_seqlens_q = offsets;
  p.lengths = lengths;
  for (int invariant = 0; invariant < 2; ++invariant) {
    fm_tiling t;
    p.batch_invariant = invariant;
    CHECK_OK(fm_tile(&p, limits_of_a_gpu, 512, &t));
    fm_schedule_on_host(&p, &t, (fm_schedule){cuts, first_slot, cost_before});
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
  CHECK_OK(fm_tile(&p, limits, 512, &t));
  fm_schedule_on_host(&p, &t, (fm_schedule){cuts, NULL, cost_before});
  CHECK(cost_before[MAX_BATCH] == MAX_BATCH * (INT64_C(4) + INT32_MAX));
  limits.unit = 64;
  CHECK_OK(fm_tile(&p, limits, 512, &t));
  fm_schedule_on_host(&p, &t, (fm_schedule){cuts, NULL, cost_before});
  CHECK(cost_before[1] == 4 + (1 << 25));
  int32_t offsets[MAX_BATCH + 1];
  for (int i = 0; i <= MAX_BATCH; ++i) offsets[i] = i;
  p.varlen = true;
  p.total_q = MAX_BATCH;
  p.cu_seqlens_q = offsets;
  limits.unit = 1;
  CHECK_OK(fm_tile(&p, limits, 512, &t));
  fm_schedule_on_host(&p, &t, (fm_schedule){cuts, NULL, cost_before});
  CHECK(cost_before[MAX_BATCH] == MAX_BATCH * (INT64_C(4) + INT32_MAX) << 25);
}

int main(void) {
  for (int i = 0; i < 6000; ++i) one_case();
  CHECK(levels[0] > 50 && levels[1] > 50 && levels[2] > 50);
  CHECK(known_whole > 20);
  CHECK(known_cuts > 100 && known_pieces > 10 && known_bands > 10 && known_even > 10);
  whole_tiles_beforehand();
  most_live_tiles();
  dead_tiles_alone();
  huge_lengths();
  return 0;
}
