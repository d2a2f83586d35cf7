/* tiling.c - how the query rows of a call become blocks and tiles, and into how many parts the work is cut. */
#include "schedule/schedule.h"

static flashmla_status too_many_tiles(const fm_work *work, int32_t num_splits) {
  return fm_fail(
      FLASHMLA_ERROR_OVERFLOW,
      "q.shape is (batch %d, s_q %d, h_q %d) with h_kv %d, num_splits is %d; the tiles of query rows times the splits "
      "must stay below 2^31",
      work->batch, work->s_q, work->h_q, work->h_kv, num_splits);
}

/* The most pieces that a request of up to so many units has in a batch-invariant schedule (fm_cut in schedule.h): 4 of
 * at least piece_units, or then those of twice as many. */
static int32_t most_pieces(int64_t units, int32_t piece_units) {
  const int64_t small = fm_min64(fm_ceil_div(units, piece_units), 4), large = fm_ceil_div(units, 2 * piece_units);
  return (int32_t)fm_clamp64(fm_max64(small, large), 1, FM_MAX_PIECES);
}

int64_t fm_row_blocks(const fm_work *work, int32_t block_rows) {
  const int64_t group = work->h_q / work->h_kv, block_heads = fm_min64(group, block_rows);
  return fm_ceil_div(work->s_q, block_rows / block_heads) * fm_ceil_div(group, block_heads);
}

int64_t fm_most_units(const fm_work *work, int32_t unit) { return fm_ceil_div(work->capacity, unit); }

bool fm_cut_alike(const fm_work *work, int32_t num_parts, int64_t columns) {
  return !work->varlen && num_parts % columns <= num_parts / 16;
}

flashmla_status fm_tile(const fm_work *work, fm_limits limits, fm_tiling *tiling) {
  int32_t num_splits = work->num_splits;
  const int32_t group = work->h_q / work->h_kv;
  const int32_t block_heads = (int32_t)fm_min64(group, limits.block_rows);
  const int32_t block_tokens = (int32_t)fm_min64(work->s_q, limits.block_rows / block_heads);
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
  const int32_t piece_units = work->batch_invariant ? limits.piece_units : 0;
  if (work->batch_invariant)
    num_splits = most_pieces(units, piece_units);
  else if (num_splits == 0 && units <= limits.whole_units)
    num_splits = 1;
  int32_t num_parts;
  if (num_splits > 0) {
    if (__builtin_mul_overflow(num_tiles, num_splits, &num_parts)) return too_many_tiles(work, num_splits);
  } else {
    /* Parts beyond the greatest total cost a schedule can have would always be empty. */
    const int64_t most_cost = num_tiles * (units + limits.start_overhead);
    const int64_t workers = limits.workers / cluster;
    num_parts = (int32_t)fm_min64(workers > 1 ? workers : 1, most_cost);
  }

  /* Columns of other KV heads read other bytes. Numbers behind the last band's tiles must stay in 32 bits. */
  const bool alike = num_splits == 0 && tiles_per_head > 1 && num_tiles <= INT32_MAX / 2 &&
                     fm_cut_alike(work, num_parts, tiles_per_request);
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
                        .bands = alike ? tiles_per_request : 1,
                        .num_parts = num_parts,
                        .num_splits = num_splits,
                        .slots_per_part = num_splits > 0 ? 1 : 2,
                        .start_overhead = limits.start_overhead,
                        .split_overhead = limits.split_overhead,
                        .unit = limits.unit,
                        .piece_units = piece_units,
                        .whole_units = limits.whole_units,
                        .partial_bytes = limits.partial_bytes,
                        .partial_facts = limits.partial_facts};
  return FLASHMLA_OK;
}

fm_tile_index fm_tile_at(const fm_work *work, const fm_tiling *tiling, int32_t tile) {
  const bool request_major = tiling->request_major;
  const int32_t request = request_major ? tile / tiling->tiles_per_request : tile % work->batch;
  const int32_t column = request_major ? tile % tiling->tiles_per_request : tile / work->batch;
  return (fm_tile_index){request, column / tiling->tiles_per_head, column % tiling->tiles_per_head};
}
