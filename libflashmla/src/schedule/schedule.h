/* schedule.h - what is to be attended, how it is cut into parts, and where cuts and partial results lie. Nothing here
 * knows what a unit of KV is made of: tokens of a paged cache, or whatever else an operation counts.
 *
 * The flow: fm_work + fm_limits -> fm_tile -> fm_tiling -> fm_lay_out -> fm_layout; fm_schedule_on_host or the plan
 * kernel fills in the cuts. */
#ifndef FLASHMLA_SCHEDULE_SCHEDULE_H_
#define FLASHMLA_SCHEDULE_SCHEDULE_H_

#include <stdbool.h>
#include <stdint.h>

#include "core/arith.h"
#include "core/error.h"
#include "core/item_kinds.h"

/* Query rows, and for each request a number of KV items that they attend to: each query token to the same ones, or with
 * own_items to as many of its own. With variable-length queries s_q is the
 * most query tokens of a request, at most total_q. */
typedef struct fm_work {
  int32_t batch, s_q, h_q, h_kv;
  bool varlen; /* then cu_seqlens_q is given, but in size queries and empty calls */
  int32_t total_q;
  const int32_t *cu_seqlens_q; /* NULL: every request has s_q query tokens */
  const int32_t *lengths; /* KV items of each request, read as at least 0 and at most `capacity`; NULL: `capacity` */
  int32_t capacity;
  const int32_t *extra_lengths; /* likewise of a second kind, which follow in units of their own */
  int32_t extra_capacity;       /* 0: there are none of it */
  int32_t window; /* 0: none. Else query token s of the n of a request attends none of its L items before number
                     L - (n - 1 - s) - window, and units are counted from what the first one may attend on */
  bool own_items; /* query tokens share no KV items: each has tiles of its own */
  bool full;      /* no lengths are given: every request has all the items that there is room for */
  bool apart;     /* launches of their own attend the items of either kind */
  bool batch_invariant;
  int32_t num_splits; /* given; 0: chosen for balance; 0 or 1 for batch-invariant work */
} fm_work;

/* What a backend says of itself for a call. Costs are in units. */
typedef struct fm_limits {
  int32_t block_rows;  /* rows of a block */
  int32_t max_cluster; /* most blocks a tile */
  int32_t workers;     /* blocks that run at once, before division by the cluster */
  int32_t start_overhead, split_overhead;
  int32_t unit;                         /* KV items that are worked on as one */
  int32_t piece_units, whole_units;     /* of fm_tiling, the first for batch-invariant calls; 0: they split no tile */
  int32_t piece_overhead;               /* of fm_tiling */
  int32_t join_overhead, unit_rows;     /* of tiles in pieces: what joining them takes, and as many partial rows as take
                                           a unit; 0: up to whole_units alone tiles stay whole */
  int32_t carries, max_slots;           /* batch invariant: of fm_tiling, and the most slots there may be */
  int32_t stripe_rows;                  /* batch invariant: rows of a slot come by so many; 0: as of a full block */
  int32_t partial_bytes, partial_facts; /* of fm_tiling */
} fm_limits;

/* How the query rows become tiles. The `group` = h_q / h_kv heads of one KV head and the s_q tokens make group * s_q
 * query rows, packed token major. A row block holds at most `block_rows` of them: `block_tokens` tokens x `block_heads`
 * heads. A tile is `cluster` consecutive blocks of one (request, KV head) that share the KV stream. The tiles of a
 * request are its columns, and tiles are numbered column major:
 *
 *     tile   = column * batch + request
 *     column = kv_head * tiles_per_head + in_head,   blocks in_head * cluster ... in_head * cluster + cluster - 1
 *     block  = token_group * head_chunks + head_chunk
 *
 * With variable-length queries the tile numbers are request major, tile = request * tiles_per_request + column, with
 * columns for s_q tokens; a request of s_i tokens has live_i = ceil(ceil(s_i / block_tokens) * head_chunks /
 * cluster) live tiles a KV head, and its tiles with in_head >= live_i are dead: nothing is done for them. Otherwise all
 * are live, and every column has the same costs: cut alike (bands), the parts that work on the same units for different
 * columns of a KV head run in step, and all but the first find them in L2. */
typedef struct fm_tiling {
  int32_t block_rows;  /* row capacity of a block: 64 on CUDA */
  int32_t cluster;     /* blocks a tile */
  int32_t group;       /* h_q / h_kv */
  int32_t block_heads; /* min(group, block_rows) */
  int32_t block_tokens;
  int32_t head_chunks;       /* ceil(group / block_heads) */
  int32_t blocks;            /* row blocks per (request, KV head) */
  int32_t tiles_per_head;    /* ceil(blocks / cluster) */
  int32_t tiles_per_request; /* columns: h_kv * tiles_per_head */
  int32_t num_tiles;         /* batch * tiles_per_request */
  bool request_major;        /* variable-length queries: how tiles are numbered */
  int32_t bands;             /* columns, each cut alike into num_parts / bands parts; or 1: all tiles are one band */
  int32_t num_parts;         /* of the work list: one a worker, but for those that would have no piece of full work; or
                                num_tiles * num_splits where that is given */
  int32_t num_splits;        /* 0, or forced, or 1: nothing is split */
  bool whole;                /* no tile is split, as is known before lengths are: nothing is to be joined */
  int32_t slots_per_part;    /* partial slots: 2, or 1 where no part has two pieces; not of work in quanta */
  int32_t pieces_apart;      /* pieces of a tile's items of each kind, attended by launches of their own; else 0 */
  int32_t start_overhead;    /* cost of beginning a tile, in units */
  int32_t split_overhead;    /* extra cost of a split work list (partials, join), in units */
  int32_t unit;              /* KV items that are worked on as one: 64 on CUDA */
  int32_t piece_units;       /* batch invariant: units of a quantum; 0 where no tile is split, and else */
  int32_t piece_overhead;    /* batch invariant: cost of ending a piece, in units: its rows are carried on or stored */
  int32_t carries;           /* batch invariant: slots of a part for what it folds on the way */
  int32_t slots;             /* batch invariant: partial slots; 0: no tile has a second piece, or none to store */
  int32_t slot_rows;         /* rows of a block that a slot has room for: block_rows, or those that there can be */
  int32_t whole_units;       /* a tile of at most so many units is not worth splitting */
  /* A partial row: bytes of an element, and floats that belong to it. The CPU has float32 rows and a float64
   * log-sum-exp, two floats; for CUDA see FACTS in dsl_kernels/core. */
  int32_t partial_bytes, partial_facts;
} fm_tiling;

/* The schedule buffer: `fm_cut cut[num_parts + 1]`; of work apart those of the launches; of work in quanta `int32_t
 * first_slot[num_parts + 1]` and `int32_t level`; padding to 16 bytes; `int64_t cost_before[batch + 1]` (scratch of the
 * scheduler).
 *
 * Part w works from cut[w] up to cut[w + 1] in the order (tile, unit). For each tile in that range the piece is units
 * lo <= unit < hi: lo is the cut's unit in the first tile, else 0; hi is the cut's unit in the last tile, else the
 * current end of the request. A tile that begins and ends in one part is written straight to out and lse. Other pieces
 * go to a partial slot: normalised rows and base-2 log-sum-exp (-inf: empty, rows not written). A part meets at most
 * two such tiles, the one it ends (slot 2 * w) and the one it begins (slot 2 * w + 1); with forced splits a part has
 * one piece at most, slots_per_part is 1 and the slot w. Combine merges the slots of such a tile in the order of its
 * parts. A part with cut[v] == cut[v + 1] has no piece. Since the last piece of a tile runs to the current end, rows
 * are right with lengths that changed after planning. For batch-invariant work see items.h.
 *
 * Scheduling, in exact integers (scheduler.c and filling.c on the host, dsl_kernels/plan on the device, equal bit
 * for bit):
 *
 *     n_i = ceil(clamp(length_i, 0, capacity) / unit) + ceil(clamp(extra_length_i, 0, extra_capacity) / unit)
 *     cost_i = n_i + start_overhead;   before_i = sum_{j < i} cost_j;   total = tiles_per_request * before_batch
 *     tile t = column * batch + i starts at  at(t) = column * before_batch + before_i
 *
 *   with variable-length queries:
 *     cost_i = h_kv * live_i * c_i, c_i = n_i + start_overhead;   total = before_batch
 *     tile (i, kv_head, in_head) starts at  before_i + (kv_head * live_i + min(in_head, live_i)) * c_i
 *
 *   A band has T = num_tiles / bands tiles, C = total / bands cost and W = num_parts / bands parts; the parts that are
 *   left over have no piece.
 *
 *   forced (num_splits > 0): part w begins tile t = w / num_splits, with P = min(num_splits, max(n_i, 1)) and j = w %
 *         num_splits at unit floor(j * n_i / P), or at (t + 1, 0) when j >= P.
 *   aligned: where there are at least as many parts as tiles, at most S = num_parts / num_tiles pieces of f_i units of
 *         a tile, f_i = max(1, n_i) for n_i <= whole_units, else ceil(n_i / S): part w begins tile t = w / S at unit
 *         (w % S) * f_i, or at (t + 1, 0) where that is >= n_i and not 0, or where the tile is dead; at (num_tiles, 0)
 *         behind the last tile; cost = max_i f_i + start_overhead.
 *         Else whole tiles, M = ceil(T / W) a part: part w of band c = w / W begins tile c * T + min(w % W * M, T) at
 *         unit 0, at most (num_tiles, 0); cost = the most that M tiles in turn cost.
 *   even: S = ceil(C / W); cut[w] = the position x = c * C + min(w % W * S, C): in tile t with o = x - at(t),
 *         unit = max(0, o - start_overhead), or (num_tiles, 0) when x >= total.
 *   even, variable-length queries: i = the last request with before_i <= x, o = x - before_i, live tile
 *         j = o / c_i of it (kv_head j / live_i, in_head j % live_i), unit = max(0, o - j * c_i - start_overhead).
 *   batch invariant (piece_units p > 0): a piece costs its units, at least one, and piece_overhead, the first of a
 *         tile start_overhead more; a tile (cost_i, or c_i) costs what its pieces do. Of a band, part after part takes
 *         as many items as cost B at most; parts that are left over have none. B is the first of S + d * D, with d = 0,
 *         1, ... , FM_BUDGETS - 1, that is enough for all, where S = ceil(C / W) and D = floor(M / (FM_BUDGETS - 1)) +
 *         1. No item costs more than M, the smaller of what the costliest live tile costs and start_overhead + 2^k *
 *         (2 p + piece_overhead), with 2^k pieces in an item. Items are pieces at level 0, nodes at level 1, whole
 *         tiles at level 2 (items.h); the level is the first whose slots fit: total <= slots, else 2.
 *
 *   apart (P = pieces_apart > 0): part w begins tile t = w / 2P at unit w % 2P, which says no more than which pieces
 *         there are. Behind these cuts lie those of the launches of the first and of the second kind, of num_parts / 2
 *         parts each, in units of their own kind: part w begins tile t = w / P at unit floor(w % P * max(n_i, P) / P),
 *         its last one ends at (num_tiles, 0). Every piece has a slot, empty ones and whole tiles too: the launches' of
 *         part w are 2 * w and 2 * w + 1, so that those of a tile lie together.
 *
 * Aligned parts are taken if their cost <= S + start_overhead + (split_overhead if they split no tile, else 1): they
 * make the fewest partial results. Always cut[0] = (0, 0) and cut[num_parts] = (num_tiles, 0). */
enum { FM_MAX_SPLITS = 1024 /* that a plan can be forced to */, FM_BUDGETS = 64 };
typedef struct fm_cut {
  int32_t tile, unit;
} fm_cut;

/* Cuts that follow from shapes: where all tiles have the same units, or each is a part. A group of parts has the same
 * tiles as any other: those of a tile, of a band, or one. part w = group * group_parts + j is cut at the position
 * x = min(group * group_cost + min(first_cost + j * part_cost, group_cost), total_cost), in tile t = x / tile_cost at
 * unit max(0, x - t * tile_cost - begin_cost). That is what a schedule says, too. */
typedef struct fm_known_cuts {
  int32_t tile_cost; /* 0: the cuts are not known */
  int32_t begin_cost, group_parts, group_cost, first_cost, part_cost, total_cost;
} fm_known_cuts;

/* What kernels divide tile numbers by, as they want it: fm_divisor in cuda.h. */
typedef struct fm_divisors {
  int64_t tile_major, tiles_per_head, head_chunks, block_heads;
  int64_t block_rows, tile_rows; /* of a block and of a tile that are full */
  int64_t piece_units;           /* 1 where the work is not batch invariant */
} fm_divisors;

/* A schedule in its buffer. */
typedef struct fm_schedule {
  fm_cut *cuts;
  int32_t *first_slot;  /* [num_parts + 1], and behind it the level; NULL where the work is not batch invariant */
  int64_t *cost_before; /* scratch in it */
} fm_schedule;

/* Partial results of split tiles. */
typedef struct fm_partials {
  void *rows;   /* [slots][cluster * slot_rows][d_v], of partial_bytes each; NULL: there are none */
  float *facts; /* [slots][cluster * slot_rows][partial_facts] */
} fm_partials;

/* Byte layout of the two caller-owned buffers; sizes are multiples of 16. */
typedef struct fm_layout {
  uint64_t plan_bytes; /* the schedule buffer */
  uint64_t plan_slots_offset, plan_cost_offset;
  /* workspace: [schedule buffer, when the call has no plan] [partial rows] [facts of the partial rows] */
  uint64_t partial_offset, partial_facts_offset;
  uint64_t workspace_bytes;
} fm_layout;

/* Partial rows of batch-invariant work: at most so many bytes for a query row of the call, of d_v columns, and bytes.
 */
#define FM_CAP_ROW_BYTES(d_v) (2 * INT64_C(4) * (d_v))
#define FM_CAP_BYTES (INT64_C(64) << 20)

/* tiling.c. `d_v`: columns of a row of results. */
flashmla_status fm_tile(const fm_work *work, fm_limits limits, int32_t d_v, fm_tiling *tiling);
/* Whether tiles can be split, so that there are partial results to join. */
bool fm_may_split(const fm_tiling *tiling);
/* Partial slots. */
int64_t fm_slots(const fm_tiling *tiling);
/* fm_tiling.blocks, of blocks that hold block_rows rows. */
int64_t fm_row_blocks(const fm_work *work, int32_t block_rows);
/* The most units of KV that a request can have. */
int64_t fm_most_units(const fm_work *work, int32_t unit);
/* Whether every column gets as many parts as any other: no more than a sixteenth of them is left over. */
bool fm_cut_alike(const fm_work *work, int32_t num_parts, int64_t columns);

/* Where a tile number leads. */
typedef struct fm_tile_index {
  int32_t request, kv_head;
  int32_t in_head; /* which tile of the (request, KV head) */
} fm_tile_index;
fm_tile_index fm_tile_at(const fm_work *work, const fm_tiling *tiling, int32_t tile);

/* queries.c: first query token of a request (in q, out and lse) and how many it has; the latter is s_q and the former 0
 * without cu_seqlens_q. */
typedef struct fm_query_range {
  int32_t begin, count;
} fm_query_range;
fm_query_range fm_query_range_of(const fm_work *work, int32_t request);
/* Of all requests, as shapes say. */
int64_t fm_query_tokens(const fm_work *work);
/* No query tokens, or no requests: nothing is run. */
bool fm_is_empty(const fm_work *work);
/* KV items of a request, clamped; of the first kind and of the second one. */
int64_t fm_items_of(const fm_work *work, int32_t request);
int64_t fm_extra_items_of(const fm_work *work, int32_t request);
/* Both as numbers on one line, in units of `unit` items: those of the first kind begin at 0, those of the second one at
 * fm_extra_begin, the next begin of a unit. */
int64_t fm_extra_begin(const fm_work *work, int32_t unit, int32_t request);
int64_t fm_length_of(const fm_work *work, int32_t unit, int32_t request);
/* The item that its first unit begins with: a multiple of `unit`. Batch-invariant work is cut at fixed items, so 0. */
int64_t fm_first_item(const fm_work *work, int32_t unit, int32_t request);

/* scheduler.c. Whether the schedule of work without lengths and windows, whose tiles have `units` units each, has only
 * whole tiles. */
bool fm_takes_whole_tiles(const fm_tiling *tiling, int64_t units);
/* Likewise only pieces of one size, with as many parts as tiles or more. */
bool fm_takes_pieces(const fm_tiling *tiling, int64_t units);
void fm_schedule_on_host(const fm_work *work, const fm_tiling *tiling, fm_schedule schedule);

/* known.c. Work that is `full` may have lengths all the same, where a plan was made without: its cuts are followed. */
fm_known_cuts fm_cuts_known(const fm_work *work, const fm_tiling *tiling);
/* What kernels work out from them, for tests. */
fm_cut fm_cut_known(const fm_known_cuts *known, int32_t part);

/* check.c: whether a caller's host buffer still holds a schedule. Kernels on a device clamp what they read instead. */
flashmla_status fm_check_schedule(const fm_work *work, const fm_tiling *tiling, fm_schedule schedule);

/* workspace.c. Work apart: what the launch of a kind is told. */
fm_tiling fm_tiling_of_kind(const fm_tiling *tiling);
fm_cut *fm_cuts_of_kind(const fm_tiling *tiling, fm_schedule schedule, int32_t kind);
fm_partials fm_partials_of_kind(const fm_tiling *tiling, int32_t d_v, fm_partials partials, int32_t kind);

flashmla_status fm_lay_out(const fm_work *work, const fm_tiling *tiling, int32_t d_v, bool own_plan, fm_layout *layout);
fm_schedule fm_schedule_in(void *buffer, const fm_tiling *tiling, const fm_layout *layout);
fm_partials fm_partials_in(void *workspace, const fm_layout *layout);
/* The slot of the piece that `part` has of a tile; `begins`: at its first unit. Not of batch-invariant work. */
int64_t fm_partial_slot(const fm_tiling *tiling, int32_t part, bool begins);

#endif /* FLASHMLA_SCHEDULE_SCHEDULE_H_ */
