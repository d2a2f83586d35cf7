/* tiling.c - how the query rows of a call become blocks and tiles, and into how many parts the work is cut. */
#include "schedule/items.h"

static flashmla_status too_many_tiles(const fm_work *work, int32_t num_splits) {
  return fm_fail(
      FLASHMLA_ERROR_OVERFLOW,
      "q.shape is (batch %d, s_q %d, h_q %d) with h_kv %d, num_splits is %d; the tiles of query rows times the splits "
      "must stay below 2^31",
      work->batch, work->s_q, work->h_q, work->h_kv, num_splits);
}

/* The most tiles that are not dead, of a KV head: with T query tokens in all, of at most `batch` requests, whose last
 * blocks and tiles may be part empty. */
static int64_t most_live(const fm_work *work, const fm_tiling *tiling) {
  if (!work->varlen) return (int64_t)work->batch * tiling->tiles_per_head;
  const int64_t requests = fm_min64(work->batch, work->total_q);
  const int64_t groups = (work->total_q - requests) / tiling->block_tokens + requests;
  const int64_t tiles = (groups * tiling->head_chunks - requests) / tiling->cluster + requests;
  return fm_min64(tiles, (int64_t)work->batch * tiling->tiles_per_head);
}

/* Slots that the cap has room for. */
static int64_t slots_in_cap(const fm_work *work, const fm_tiling *tiling, fm_limits limits, int32_t d_v) {
  const int64_t row_bytes = (int64_t)d_v * limits.partial_bytes + (int64_t)sizeof(float) * limits.partial_facts;
  const int64_t slot_bytes = (int64_t)tiling->cluster * tiling->slot_rows * row_bytes;
  int64_t cap;
  if (__builtin_mul_overflow(fm_query_tokens(work) * work->h_q, FM_CAP_ROW_BYTES(d_v), &cap)) cap = INT64_MAX;
  return fm_min64((fm_min64(cap, INT64_MAX / 2) + FM_CAP_BYTES) / slot_bytes, limits.max_slots);
}

/* Parts and slots of batch-invariant work. Between parts there are fewer cuts than parts, so no more tiles are cut. */
static void set_slots(const fm_work *work, fm_limits limits, int32_t d_v, fm_tiling *tiling) {
  tiling->piece_units = limits.piece_units;
  tiling->piece_overhead = limits.piece_overhead;
  const int64_t quanta = fm_quanta_of(tiling, fm_most_units(work, limits.unit));
  if (limits.stripe_rows > 0)
    tiling->slot_rows =
        (int32_t)fm_ceil_div(tiling->block_heads * tiling->block_tokens, limits.stripe_rows) * limits.stripe_rows;
  const int64_t live = fm_max64(1, most_live(work, tiling) * work->h_kv),
                most = slots_in_cap(work, tiling, limits, d_v);
  int64_t parts = fm_clamp64(fm_min64(limits.workers / tiling->cluster, live * quanta), 1, INT32_MAX);
  if (quanta > 1 && limits.carries > 0) parts = fm_max64(1, fm_min64(parts, most / limits.carries));
  const int64_t stored = fm_min64(live, parts - 1) * fm_pieces_of(quanta);
  tiling->num_parts = (int32_t)parts;
  tiling->carries = limits.carries;
  tiling->slots = quanta > 1 ? (int32_t)fm_min64(most, stored + limits.carries * parts) : 0;
}

/* Query tokens that a block has room for. */
static int32_t most_tokens(const fm_work *work, int32_t block_rows) {
  return work->own_items ? 1 : block_rows / fm_min32(work->h_q / work->h_kv, block_rows);
}

int64_t fm_row_blocks(const fm_work *work, int32_t block_rows) {
  const int64_t group = work->h_q / work->h_kv, block_heads = fm_min64(group, block_rows);
  return fm_ceil_div(work->s_q, most_tokens(work, block_rows)) * fm_ceil_div(group, block_heads);
}

int64_t fm_most_units(const fm_work *work, int32_t unit) {
  int64_t items = work->capacity;
  if (work->window > 0 && !work->batch_invariant)
    items = fm_min64(items, (int64_t)work->window + work->s_q - 1 + unit - 1); /* fm_first_item */
  return fm_ceil_div(items, unit) + fm_ceil_div(work->extra_capacity, unit);
}

bool fm_cut_alike(const fm_work *work, int32_t num_parts, int64_t columns) {
  return !work->varlen && num_parts % columns <= num_parts / 16;
}

bool fm_may_split(const fm_tiling *tiling) {
  if (tiling->piece_units > 0) return tiling->slots > (int64_t)tiling->carries * tiling->num_parts;
  return !tiling->whole && tiling->num_splits != 1 && tiling->num_parts > 1;
}

int64_t fm_slots(const fm_tiling *tiling) {
  if (tiling->piece_units > 0) return tiling->slots;
  return fm_may_split(tiling) ? (int64_t)tiling->slots_per_part * tiling->num_parts : 0;
}

/* Pieces of a tile's items of each kind, where launches of their own attend them one after the other: as many as run at
 * once. */
static int32_t pieces_apart(const fm_work *work, fm_limits limits, int32_t cluster, int32_t num_tiles) {
  if (!work->apart) return 0;
  const int64_t units = fm_ceil_div(fm_max32(work->capacity, work->extra_capacity), limits.unit);
  const bool whole = work->batch_invariant || units <= limits.whole_units;
  const int64_t chosen = whole ? 1 : limits.workers / cluster / num_tiles;
  const int64_t pieces = fm_min64(work->num_splits > 0 ? work->num_splits : chosen, units);
  return (int32_t)fm_clamp64(pieces, 1, FM_MAX_SPLITS / FM_ITEM_KINDS);
}

/* Whether tiles of so many units are done before what pieces of them give would be joined. */
static bool stay_whole(const fm_tiling *tiling, fm_limits limits, int64_t units) {
  if (units <= limits.whole_units) return true;
  const int64_t most = fm_min64(limits.workers / tiling->cluster / tiling->num_tiles, units);
  if (limits.unit_rows == 0 || most <= 1) return false;
  const int64_t piece = fm_ceil_div(units, most), pieces = fm_ceil_div(units, piece);
  const int64_t rows = pieces * tiling->num_tiles * tiling->cluster * tiling->block_heads * tiling->block_tokens;
  return (units - piece - limits.join_overhead) * limits.unit_rows <= rows;
}

/* Parts that have a piece of full work: where tiles are cut in pieces of one size, others would be without any. */
static int32_t parts_with_pieces(const fm_tiling *tiling, int64_t units) {
  const int32_t most = tiling->num_parts / tiling->num_tiles;
  if (most == 0 || units == 0 || !fm_takes_pieces(tiling, units)) return tiling->num_parts;
  return tiling->num_tiles * (int32_t)fm_ceil_div(units, fm_ceil_div(units, most));
}

flashmla_status fm_tile(const fm_work *work, fm_limits limits, int32_t d_v, fm_tiling *tiling) {
  int32_t num_splits = work->num_splits;
  const int32_t group = work->h_q / work->h_kv;
  const int32_t block_heads = (int32_t)fm_min64(group, limits.block_rows);
  const int32_t block_tokens = (int32_t)fm_min64(work->s_q, most_tokens(work, limits.block_rows));
  const int32_t head_chunks = (int32_t)fm_ceil_div(group, block_heads);
  int32_t tiles_per_request, num_tiles;
  const int64_t blocks = fm_row_blocks(work, limits.block_rows);
  /* Kernels number the tokens behind the last one, too: of its block, and of the idle one that fills the last tile. */
  if (work->s_q > INT32_MAX - 2 * limits.block_rows)
    return fm_fail(FLASHMLA_ERROR_OVERFLOW, "a request may have %d query tokens; at most %d are supported", work->s_q,
                   INT32_MAX - 2 * limits.block_rows);
  if (blocks > INT32_MAX) return too_many_tiles(work, num_splits);
  const int32_t cluster = (int32_t)fm_min64(limits.max_cluster, blocks);
  const int32_t tiles_per_head = (int32_t)fm_ceil_div(blocks, cluster);
  if (__builtin_mul_overflow(work->h_kv, tiles_per_head, &tiles_per_request) ||
      __builtin_mul_overflow(work->batch, tiles_per_request, &num_tiles))
    return too_many_tiles(work, num_splits);

  const int64_t units = fm_most_units(work, limits.unit);
  const int32_t apart = pieces_apart(work, limits, cluster, num_tiles);
  const bool in_pieces = work->batch_invariant && limits.piece_units > 0;
  if (apart > 0)
    num_splits = FM_ITEM_KINDS * apart;
  else if (work->batch_invariant)
    num_splits = in_pieces ? 0 : fm_max32(num_splits, 1); /* a plan may be given that was made for the other */
  *tiling = (fm_tiling){.block_rows = limits.block_rows,
                        .cluster = cluster,
                        .group = group,
                        .block_heads = block_heads,
                        .block_tokens = block_tokens,
                        .head_chunks = head_chunks,
                        .blocks = (int32_t)blocks,
                        .tiles_per_head = tiles_per_head,
                        .tiles_per_request = tiles_per_request,
                        .num_tiles = num_tiles,
                        .request_major = work->varlen,
                        .pieces_apart = apart,
                        .start_overhead = limits.start_overhead,
                        .split_overhead = limits.split_overhead,
                        .unit = limits.unit,
                        .slot_rows = limits.block_rows,
                        .whole_units = limits.whole_units,
                        .partial_bytes = limits.partial_bytes,
                        .partial_facts = limits.partial_facts};
  if (num_splits == 0 && !in_pieces && stay_whole(tiling, limits, units)) num_splits = 1;
  tiling->num_splits = num_splits;
  tiling->slots_per_part = num_splits > 0 ? 1 : 2;
  if (in_pieces) {
    set_slots(work, limits, d_v, tiling);
  } else if (num_splits > 0) {
    if (__builtin_mul_overflow(num_tiles, num_splits, &tiling->num_parts)) return too_many_tiles(work, num_splits);
  } else {
    /* Parts beyond the greatest total cost a schedule can have would always be empty. */
    const int64_t most_cost = num_tiles * (units + limits.start_overhead);
    const int64_t workers = limits.workers / cluster;
    tiling->num_parts = (int32_t)fm_min64(workers > 1 ? workers : 1, most_cost);
  }
  const bool balanced = num_splits == 0 && !in_pieces, full = work->full && !work->varlen;
  /* Columns of other KV heads read other bytes. Numbers behind the last band's tiles must stay in 32 bits. */
  const bool alike = num_splits == 0 && tiles_per_head > 1 && num_tiles <= INT32_MAX / 2 &&
                     fm_cut_alike(work, tiling->num_parts, tiles_per_request);
  tiling->bands = alike ? tiles_per_request : 1;
  if (balanced && full) tiling->num_parts = parts_with_pieces(tiling, units);
  tiling->whole = balanced && full && units > 0 && fm_takes_whole_tiles(tiling, units);
  return FLASHMLA_OK;
}

fm_tile_index fm_tile_at(const fm_work *work, const fm_tiling *tiling, int32_t tile) {
  const bool request_major = tiling->request_major;
  const int32_t request = request_major ? tile / tiling->tiles_per_request : tile % work->batch;
  const int32_t column = request_major ? tile % tiling->tiles_per_request : tile / work->batch;
  return (fm_tile_index){request, column / tiling->tiles_per_head, column % tiling->tiles_per_head};
}
