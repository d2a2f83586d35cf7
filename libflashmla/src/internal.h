/* internal.h - what the units of the library share. Flow of a call:
 * api.c -> params.c -> validate.c (DLTensor -> fm_problem) -> tiling.c, workspace.c -> plan.c -> cuda/decode.c or
 * cpu/decode.c. Nothing behind validate.c sees a DLTensor. */
#ifndef FLASHMLA_INTERNAL_H_
#define FLASHMLA_INTERNAL_H_

#include <stdbool.h>
#include <stdint.h>

#include "flashmla/flashmla.h"

typedef enum fm_dtype { FM_BF16 = 0, FM_FP16 = 1, FM_FP32 = 2 } fm_dtype;

/* One checked call: extents, flat pointers (byte_offset applied) and strides in elements. The innermost stride of q,
 * kv, block_table and out is 1. With variable-length queries s_q is max_seqlen_q, and the batch strides of q, out and
 * lse are 0: query token s of request i is the token fm_query_range says, whatever the request. */
typedef struct fm_problem {
  fm_dtype dtype;     /* of q and kv */
  fm_dtype out_dtype; /* dtype or FM_FP32 */
  bool causal;
  bool batch_invariant;
  bool cuda; /* false: host memory */
  int32_t device_id;
  int32_t batch, s_q, h_q, h_kv, d_qk, d_v;
  int32_t num_blocks, page_size, max_blocks;
  float softmax_scale;
  bool varlen;     /* variable-length queries; then cu_seqlens_q is given, but in size queries and empty calls */
  int32_t total_q; /* variable-length queries: tokens in all */
  const int32_t *cu_seqlens_q;              /* NULL: every request has s_q query tokens */
  int32_t cp_rank, cp_world, cp_interleave; /* cp_world 0: the cache is whole */
  const int32_t *global_seqlens;
  bool lse_base2;
  float empty_lse;  /* +inf or -inf */
  float scale_log2; /* softmax_scale * log2(e), at most the largest float: infinity would make 0 * scale_log2 NaN */
  const void *q;
  int64_t q_stride[3]; /* batch, token, head */
  const void *kv;
  int64_t kv_stride[3]; /* block, row in page, head */
  const int32_t *block_table;
  int64_t block_table_stride; /* between requests */
  const int32_t *cache_seqlens;
  void *out;
  int64_t out_stride[3]; /* batch, token, head */
  float *lse;            /* NULL: not wanted */
  int64_t lse_stride[3]; /* batch, head, token */
  int32_t num_threads;   /* CPU only; 0: not given */
  void *stream;
} fm_problem;

/* How the query rows become tiles. The `group` = h_q / h_kv heads of one KV head and the s_q tokens make group * s_q
 * query rows, packed token major. A row block holds at most `block_rows` of them: `block_tokens` tokens x `block_heads`
 * heads. A tile is `cluster` consecutive blocks of one (request, KV head) that share the KV stream. The tiles of a
 * request are its columns, and tiles are numbered column major:
 *
 *     tile   = column * batch + request
 *     column = kv_head * tiles_per_head + k,   blocks k * cluster ... k * cluster + cluster - 1
 *     block  = token_group * head_chunks + head_chunk
 *
 * With variable-length queries the tile numbers are request major, tile = request * tiles_per_request + column, with
 * columns for max_seqlen_q tokens; a request of s_i tokens has k_i = ceil(ceil(s_i / block_tokens) * head_chunks /
 * cluster) live tiles a KV head, and its tiles with k >= k_i are dead: nothing is done for them. Otherwise all are
 * live, and every column has the same costs: cut alike (bands), the parts that work on the same pages for different
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
  int32_t num_parts;         /* of the work list: one a worker, or num_tiles * num_splits where that is given */
  int32_t num_splits;        /* 0, or forced, or of the batch-invariant mode, or 1: no table exceeds whole_units */
  int32_t slots_per_part;    /* partial slots: 2, or 1 where no part has two pieces */
  int32_t start_overhead;    /* cost of beginning a tile, in units */
  int32_t split_overhead;    /* extra cost of a split work list (partials, merge), in units */
  int32_t unit;              /* KV tokens that are worked on as one: 64 on CUDA */
  int32_t piece_units;       /* batch invariant: units of a piece at least; else 0 */
  int32_t whole_units;       /* a tile of at most so many units is not worth splitting */
  /* A partial row: bytes of an element, and floats that belong to it. The CPU has float32 rows and the log-sum-exp; for
   * CUDA see FACTS in dsl_kernels/components/epilogue.py. */
  int32_t partial_bytes, partial_facts;
} fm_tiling;

/* The schedule counts the KV of a request in units of `unit` tokens, whatever the page size; "page" below is such a
 * unit.
 *
 * The schedule buffer: `fm_cut cut[num_parts + 1]`, padding to 16 bytes, `int64_t cost_before[batch + 1]` (scratch of
 * the scheduler).
 *
 * Part w works from cut[w] up to cut[w + 1] in the order (tile, page). For each tile in that range the piece is pages
 * lo <= page < hi: lo is the cut's page in the first tile, else 0; hi is the cut's page in the last tile, else the
 * current end of the sequence. A tile that begins and ends in one part is written straight to out and lse. Other pieces
 * go to a partial slot: normalised rows and base-2 log-sum-exp (-inf: empty, rows not written). A part meets at most
 * two such tiles, the one it ends (slot 2 * w) and the one it begins (slot 2 * w + 1); with forced splits or batch
 * invariant a part has one piece at most, slots_per_part is 1 and the slot w. Combine merges the slots of such a tile
 * in the order of its parts. A part with cut[v] == cut[v + 1] has no piece. Since the last piece of a tile runs to the
 * current end, rows are right with lengths that changed after planning.
 *
 * Scheduling, in exact integers (plan.c on the host, dsl_kernels/plan.py on the device, equal bit for bit):
 *
 *     n_i = ceil(clamp(length_i, 0, max_blocks * page_size) / unit)
 *     cost_i = n_i + start_overhead;   before_i = sum_{k < i} cost_k;   total = tiles_per_request * before_batch
 *     tile t = column * batch + i starts at  at(t) = column * before_batch + before_i
 *
 *   with variable-length queries:
 *     cost_i = h_kv * k_i * c_i, c_i = n_i + start_overhead;   total = before_batch
 *     tile (i, kv_head, k) starts at  before_i + (kv_head * k_i + min(k, k_i)) * c_i
 *
 *   A band has T = num_tiles / bands tiles, C = total / bands cost and W = num_parts / bands parts; the parts that are
 *   left over have no piece.
 *
 *   forced (num_splits > 0): part w begins tile t = w / num_splits, with P = min(num_splits, max(n_i, 1)) and j = w %
 *         num_splits at page floor(j * n_i / P), or at (t + 1, 0) when j >= P.
 *   aligned: where there are at least as many parts as tiles, at most S = num_parts / num_tiles pieces of f_i pages of
 *         a tile, f_i = max(1, n_i) for n_i <= whole_units, else ceil(n_i / S): part w begins tile t = w / S at page
 *         (w % S) * f_i, or at (t + 1, 0) where that is >= n_i and not 0, or where the tile is dead; at (num_tiles, 0)
 *         behind the last tile; cost = max_i f_i + start_overhead.
 *         Else whole tiles, K = ceil(T / W) a part: part w of band c = w / W begins tile c * T + min(w % W * K, T) at
 *         page 0, at most (num_tiles, 0); cost = the most that K tiles in turn cost.
 *   even: S = ceil(C / W); cut[w] = the position x = c * C + min(w % W * S, C): in tile t with o = x - at(t),
 *         page = max(0, o - start_overhead), or (num_tiles, 0) when x >= total.
 *   even, variable-length queries: i = the last request with before_i <= x, o = x - before_i, live tile
 *         j = o / c_i of it (kv_head j / k_i, k = j % k_i), page = max(0, o - j * c_i - start_overhead).
 *   batch invariant: piece_units > 0; pieces of f_i = max(clamp(ceil(n_i / 4), piece_units, 2 * piece_units),
 *         ceil(n_i / FM_MAX_PIECES)) pages, each of which costs 1: instead of n_i + start_overhead a tile costs
 *         max(1, ceil(n_i / f_i)). Part w is piece w: as `even` with S = 1 and page = o * f_i. num_splits is the most
 *         pieces that a tile can have, num_parts = num_tiles * num_splits; the last parts have no piece.
 *
 * Aligned parts are taken if their cost <= S + start_overhead + (split_overhead if they split no tile, else 1): they
 * make the fewest partial results. Always cut[0] = (0, 0) and
 * cut[num_parts] = (num_tiles, 0).
 */
enum {
  FM_MAX_SPLITS = 1024, /* that a plan can be forced to */
  FM_MAX_PIECES = 32    /* of a tile in the batch-invariant mode */
};
typedef struct fm_cut {
  int32_t tile, page;
} fm_cut;

/* Byte layout of the two caller-owned buffers; sizes are multiples of 16. */
typedef struct fm_layout {
  uint64_t plan_bytes; /* the schedule buffer */
  uint64_t plan_cost_offset;
  /* workspace: [schedule buffer, when the call has no plan] [partial rows] [facts of the partial rows] */
  uint64_t partial_offset; /* rows[slots_per_part * num_parts][cluster * block_rows][d_v], of partial_bytes each */
  uint64_t partial_facts_offset; /* float facts[slots_per_part * num_parts][cluster * block_rows][partial_facts] */
  uint64_t workspace_bytes;      /* no partials when num_splits == 1 or when num_parts == 1 */
} fm_layout;

/* What a backend needs to run: where the schedule and the partials are. */
typedef struct fm_run {
  fm_problem problem;
  fm_tiling tiling;
  fm_cut *cuts;         /* schedule buffer */
  int64_t *cost_before; /* scratch in it */
  bool make_plan;       /* the call has no plan: schedule first */
  void *partial;        /* NULL without partials */
  float *partial_facts;
} fm_run;

/* error.c: stores the sentence for this thread and returns `status`. */
flashmla_status fm_fail(flashmla_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Remembers the kernel name for flashmla_last_kernel; `name` must be static. */
void fm_set_last_kernel(const char *name);

/* params.c: copies the caller's params struct, which begins with its struct_size, into *params, whose size is
 * `known_size`; fields that the caller does not have become 0. `least_size`: that of the first version. */
flashmla_status fm_read_params(const void *given, uint32_t least_size, void *params, uint32_t known_size);

/* validate.c: every rule on the arguments, once. `need_outputs`: decode (out, lse, scale) or plan. Pointers in *problem
 * may be NULL where `sizes_only` (the size queries look at shapes, dtypes and devices alone), or where the call is
 * empty, which is FLASHMLA_OK. */
flashmla_status fm_check_decode(const flashmla_dense_decode_params *params, bool sizes_only, fm_problem *problem);
flashmla_status fm_check_plan(const flashmla_plan_decode_params *params, bool sizes_only, fm_problem *problem);
/* No query tokens, or no requests: nothing is run. */
bool fm_is_empty(const fm_problem *problem);

/* tiling.c / workspace.c. fm_tile asks the backend for its constants (fm_cuda_limits or fm_cpu_limits). `num_splits` is
 * 0 or forced; a batch-invariant problem has its own. */
typedef struct fm_backend_limits {
  int32_t block_rows;  /* rows of a block */
  int32_t max_cluster; /* most blocks a tile */
  int32_t workers;     /* blocks that run at once, before division by the cluster */
  int32_t start_overhead, split_overhead;
  int32_t unit;                         /* tokens; fm_tiling.unit */
  int32_t piece_units, whole_units;     /* of fm_tiling, the first for batch-invariant calls */
  int32_t partial_bytes, partial_facts; /* of fm_tiling */
} fm_backend_limits;
flashmla_status fm_tile(const fm_problem *problem, int32_t num_splits, fm_tiling *tiling);
flashmla_status fm_lay_out(const fm_problem *problem, const fm_tiling *tiling, bool own_plan, fm_layout *layout);

/* tiling.c: where a tile number leads. */
typedef struct fm_place {
  int32_t request, kv_head;
  int32_t k; /* which tile of the (request, KV head) */
} fm_place;
fm_place fm_place_of(const fm_problem *problem, const fm_tiling *tiling, int32_t tile);

/* queries.c: first query token of a request (in q, out and lse) and how many it has; the latter is s_q and the former 0
 * without cu_seqlens_q. bound: tokens that the query token `token` of request i may attend, of the request's `length`
 * clamped ones, by FLASHMLA_CAUSAL and by the context-parallel shard. */
typedef struct fm_query_range {
  int32_t begin, count;
} fm_query_range;
fm_query_range fm_query_range_of(const fm_problem *problem, int32_t request);
int64_t fm_attended(const fm_problem *problem, int32_t request, int64_t length, int32_t count, int32_t token);

/* merge_states, checked: part i's elements are at out[i] / lse[i]. Without the batch axis batch is 1 and s_q
 * total_q. */
enum {
  FM_MAX_STATES = 16,      /* listed one by one on CUDA: kernel parameters */
  FM_MAX_CPU_STATES = 1024 /* on the CPU: fm_state entries on the stack, 64 KB */
};
typedef struct fm_state {
  const void *out;
  int64_t out_stride[3]; /* batch, token, head */
  const float *lse;
  int64_t lse_stride[3]; /* batch, head, token */
} fm_state;
typedef struct fm_merge {
  fm_dtype dtype, out_dtype;
  bool cuda;
  int32_t device_id;
  int32_t batch, s_q, h_q, d_v;
  int32_t num_states;
  bool stacked;                               /* states[0] alone, part i lies i * state_stride elements further */
  int64_t out_state_stride, lse_state_stride; /* may be 0 or negative where the parts were listed */
  const fm_state *states;                     /* 1 or num_states */
  fm_state result;                            /* written; lse NULL: not wanted */
  bool lse_base2;
  float empty_lse;
  int32_t num_threads;
  void *stream;
} fm_merge;

/* validate_merge.c: every rule on the arguments of merge_states. Fills `states`, which *merge then points to. An empty
 * call is FLASHMLA_OK with batch * s_q == 0. */
flashmla_status fm_check_merge(const flashmla_merge_states_params *params, fm_state states[FM_MAX_CPU_STATES],
                               fm_merge *merge);

/* plan.c: the host scheduler, and the stamp that a flashmla_plan carries. */
void fm_schedule_on_host(const fm_problem *problem, const fm_tiling *tiling, fm_cut *cuts, int64_t *cost_before);
/* Whether the cuts in a caller's host buffer are still a schedule; `partials`: there is room for split tiles. Kernels
 * on a device clamp what they read instead. */
flashmla_status fm_check_schedule(const fm_tiling *tiling, const fm_cut *cuts, bool partials);

/* cuda/: GPU backend. All functions fail with a clear status on a machine without driver, kernels or a fitting GPU. */
/* Also: the device exists and is of a supported architecture. `num_splits` as in fm_tile. */
flashmla_status fm_cuda_limits(const fm_problem *problem, int32_t num_splits, fm_backend_limits *limits);
flashmla_status fm_cuda_plan(const fm_run *run);
flashmla_status fm_cuda_dense_decode(const fm_run *run);
flashmla_status fm_cuda_merge_states(const fm_merge *merge);
flashmla_status fm_cuda_driver_version(int32_t *version);
flashmla_status fm_cuda_stream_synchronize(int32_t device_id, void *stream);
int32_t fm_cuda_kernel_count(void);
void fm_cuda_kernel_at(int32_t index, flashmla_kernel_info *info);

/* cpu/: host backend. */
void fm_cpu_limits(const fm_problem *problem, fm_backend_limits *limits);
flashmla_status fm_cpu_dense_decode(const fm_run *run);
flashmla_status fm_cpu_merge_states(const fm_merge *merge);
int32_t fm_cpu_kernel_count(void);
void fm_cpu_kernel_at(int32_t index, flashmla_kernel_info *info);
const char *fm_cpu_isa(void);

/* Planted faults (tests/test_planted_faults.py): a test library built with -DFLASHMLA_FAULT=n misbehaves in one way; 0
 * in every other build. */
#ifndef FLASHMLA_FAULT
#define FLASHMLA_FAULT 0
#endif
enum fm_fault {
  FM_FAULT_NONE,
  FM_FAULT_PAGE_END,     /* page end off by one */
  FM_FAULT_CAUSAL_BOUND, /* causal bound off by one */
  FM_FAULT_HEAD_MAP,     /* query head to KV head map */
  FM_FAULT_STALE_PAGE,   /* the last page is the one before */
  FM_FAULT_NAN_V,        /* NaN in dead V rows let through */
  FM_FAULT_SPLIT_WEIGHT, /* weight of a split in the merge */
  FM_FAULT_LSE_BASE,     /* lse in base 2 */
  FM_FAULT_EMPTY_ROW,    /* an empty row is not written as 0 / +inf */
  FM_FAULT_STRIDE,       /* a stride is ignored */
  FM_FAULT_LENGTH,       /* a length is not clamped to the table's capacity (reads stay inside the table) */
  /* Variable-length queries */
  FM_FAULT_CAUSAL_COUNT, /* causal bound by max_seqlen_q, not by the request's own tokens */
  FM_FAULT_QUERY_COUNT,  /* a request's tokens are not limited to max_seqlen_q (writes stay inside its last tile) */
  /* Context parallelism */
  FM_FAULT_CP_RANK,       /* rank is ignored */
  FM_FAULT_CP_INTERLEAVE, /* interleave is ignored */
  FM_FAULT_CP_CAUSAL,     /* causal bound on the shard's tokens, not on all */
  /* merge_states */
  FM_FAULT_STATE_PLUS_INF, /* a part whose lse is +inf takes part */
  FM_FAULT_STATE_BASE,     /* base 2 is ignored */
  /* Options */
  FM_FAULT_EMPTY_LSE,  /* the lse of an empty row is +inf whatever was asked for, in merge_states too */
  FM_FAULT_PIECE_SIZE, /* batch invariant: the size of a piece depends on the batch */
  FM_FAULT_FLOAT32_OUT /* float32 out is rounded to the dtype of q first */
};
#define FM_FAULTY(which) (FLASHMLA_FAULT == (which))

#endif /* FLASHMLA_INTERNAL_H_ */
