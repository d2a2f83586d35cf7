/* internal.h - what the units of the library share. Flow of a call:
 * api.c -> params.c -> validate.c (DLTensor -> fm_problem) -> tiling.c, workspace.c -> plan.c -> cuda/launch.c or
 * cpu/decode.c. Nothing behind validate.c sees a DLTensor. */
#ifndef FLASHMLA_INTERNAL_H_
#define FLASHMLA_INTERNAL_H_

#include <stdbool.h>
#include <stdint.h>

#include "flashmla/flashmla.h"

typedef enum fm_dtype { FM_BF16 = 0, FM_FP16 = 1, FM_FP32 = 2 } fm_dtype;

/* One checked call: extents, flat pointers (byte_offset applied) and strides in elements. The innermost stride of q,
 * kv, block_table and out is 1. */
typedef struct fm_problem {
  fm_dtype dtype;
  bool causal;
  bool cuda; /* false: host memory */
  int32_t device_id;
  int32_t batch, s_q, h_q, h_kv, d_qk, d_v;
  int32_t num_blocks, page_size, max_blocks;
  float softmax_scale;
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
 * Every column has the same costs, so the parts that work on the same request in different columns run at the same time
 * and read its KV from L2; numbered request by request they would read it from memory twice. */
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
  int32_t num_parts;         /* of the work list: one a worker, or num_tiles * num_splits when forced */
  int32_t num_splits;        /* 0, or forced */
  int32_t start_overhead;    /* cost of beginning a tile, in pages */
  int32_t split_overhead;    /* extra cost of a split work list (partials, merge), in pages */
} fm_tiling;

/* The schedule buffer: `fm_cut cut[num_parts + 1]`, padding to 16 bytes, `int64_t cost_before[batch + 1]` (scratch of
 * the scheduler).
 *
 * Part w works from cut[w] up to cut[w + 1] in the order (tile, page). For each tile in that range the piece is pages
 * lo <= page < hi: lo is the cut's page in the first tile, else 0; hi is the cut's page in the last tile, else the
 * current end of the sequence. A tile that begins and ends in one part is written straight to out and lse. Other pieces
 * go to partial slot 2 * w + (lo == 0): normalised float32 rows and base-2 log-sum-exp (-inf: empty, rows not written).
 * Combine merges the slots of such a tile: 2 * w + 1 of the part that begins it, then 2 * v of the parts v that follow,
 * up to the one that ends it. A part with cut[v] == cut[v + 1] has no piece. Since the last piece of a tile runs to the
 * current end, rows are right with lengths that changed after planning.
 *
 * Scheduling, in exact integers (plan.c on the host, dsl_kernels/plan.py on the device, equal bit for bit):
 *
 *     n_i = ceil(clamp(length_i, 0, max_blocks * page_size) / page_size)
 *     cost_i = n_i + start_overhead;   before_i = sum_{k < i} cost_k;   total = tiles_per_request * before_batch
 *     tile t = column * batch + i starts at  at(t) = column * before_batch + before_i
 *
 *   forced (num_splits > 0): part w begins at tile t = w / num_splits, page floor((w % num_splits) * n_i / num_splits).
 *   whole tiles: K = ceil(num_tiles / num_parts);   cut[w] = (min(w * K, num_tiles), 0);
 *                cost = max_w (at((w + 1) * K) - at(w * K)).
 *   even: S = ceil(total / num_parts);   cut[w] = the position w * S: in tile t with o = w * S - at(t),
 *         page = max(0, o - start_overhead), or (num_tiles, 0) when w * S >= total.
 *
 * Whole tiles are taken if their cost <= S + start_overhead + split_overhead. Always cut[num_parts] = (num_tiles, 0).
 */
typedef struct fm_cut {
  int32_t tile, page;
} fm_cut;

/* Byte layout of the two caller-owned buffers; sizes are multiples of 16. */
typedef struct fm_layout {
  uint64_t plan_bytes; /* the schedule buffer */
  uint64_t plan_cost_offset;
  /* workspace: [schedule buffer, when the call has no plan] [partial rows] [partial lse] */
  uint64_t partial_offset;     /* float rows[2 * num_parts][cluster * block_rows][d_v] */
  uint64_t partial_lse_offset; /* float lse[2 * num_parts][cluster * block_rows] */
  uint64_t workspace_bytes;    /* no partials when num_splits == 1 or when num_parts == 1 */
} fm_layout;

/* What a backend needs to run: where the schedule and the partials are. */
typedef struct fm_run {
  fm_problem problem;
  fm_tiling tiling;
  fm_cut *cuts;         /* schedule buffer */
  int64_t *cost_before; /* scratch in it */
  bool make_plan;       /* the call has no plan: schedule first */
  float *partial;       /* NULL without partials */
  float *partial_lse;
} fm_run;

/* error.c: stores the sentence for this thread and returns `status`. */
flashmla_status fm_fail(flashmla_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Remembers the kernel name for flashmla_last_kernel; `name` must be static. */
void fm_set_last_kernel(const char *name);

/* params.c: copies the caller's params struct, which begins with its struct_size, into *params, whose size is
 * `known_size`; fields that the caller does not have become 0. `least_size`: that of the first version. */
flashmla_status fm_read_params(const void *given, uint32_t least_size, void *params, uint32_t known_size);

/* validate.c: every rule on the arguments, once. `need_outputs`: decode (out, lse, scale) or plan. Pointers in *problem
 * may be NULL where `sizes_only` (the size queries look at shapes, dtypes and devices alone). An empty call (batch or
 * s_q 0) is FLASHMLA_OK with batch * s_q == 0. */
flashmla_status fm_check_decode(const flashmla_dense_decode_params *params, bool sizes_only, fm_problem *problem);
flashmla_status fm_check_plan(const flashmla_plan_decode_params *params, bool sizes_only, fm_problem *problem);

/* tiling.c / workspace.c. fm_tile asks the backend for its constants (fm_cuda_limits or fm_cpu_limits). */
typedef struct fm_backend_limits {
  int32_t block_rows;  /* rows of a block */
  int32_t max_cluster; /* most blocks a tile */
  int32_t workers;     /* blocks that run at once, before division by the cluster */
  int32_t start_overhead, split_overhead;
} fm_backend_limits;
flashmla_status fm_tile(const fm_problem *problem, int32_t num_splits, fm_tiling *tiling);
flashmla_status fm_lay_out(const fm_problem *problem, const fm_tiling *tiling, bool own_plan, fm_layout *layout);

/* plan.c: the host scheduler, and the stamp that a flashmla_plan carries. */
void fm_schedule_on_host(const fm_problem *problem, const fm_tiling *tiling, fm_cut *cuts, int64_t *cost_before);
/* Whether the cuts in a caller's host buffer are still a schedule; `partials`: there is room for split tiles. Kernels
 * on a device clamp what they read instead. */
flashmla_status fm_check_schedule(const fm_tiling *tiling, const fm_cut *cuts, bool partials);

/* cuda/: GPU backend. All functions fail with a clear status on a machine without driver, kernels or a fitting GPU. */
flashmla_status fm_cuda_limits(const fm_problem *problem,
                               fm_backend_limits *limits); /* also: device exists and is of a supported architecture */
flashmla_status fm_cuda_plan(const fm_run *run);
flashmla_status fm_cuda_dense_decode(const fm_run *run);
flashmla_status fm_cuda_driver_version(int32_t *version);
flashmla_status fm_cuda_stream_synchronize(int32_t device_id, void *stream);
int32_t fm_cuda_kernel_count(void);
void fm_cuda_kernel_at(int32_t index, flashmla_kernel_info *info);

/* cpu/: host backend. */
void fm_cpu_limits(const fm_problem *problem, fm_backend_limits *limits);
flashmla_status fm_cpu_dense_decode(const fm_run *run);
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
  FM_FAULT_LENGTH        /* a length is not clamped to the table's capacity (reads stay inside the table) */
};
#define FM_FAULTY(which) (FLASHMLA_FAULT == (which))

#endif /* FLASHMLA_INTERNAL_H_ */
