/* decode.c - plan and dense_decode on a GPU: kernel parameters and the order of the launches. */
#include "cuda/launch.h"
#include "tiling.h"
#include "try.h"

/* Units: a tile's Q load, pipeline fill and output take about as long as 4 units, or as 3 where nobody shares what is
 * read, so that a unit takes longer. */
#define START_OVERHEAD 4
#define START_OVERHEAD_ALONE 3
#define SPLIT_OVERHEAD 8 /* units: partial rows and their merge */
#define PIECE_UNITS 16   /* of a piece at least in batch-invariant schedules: smaller ones make too many partial rows */
#define WHOLE_UNITS 3    /* of a tile that is not split: partial rows and their merge take longer */
_Static_assert(FM_KERNEL_MAX_PIECES == FM_MAX_PIECES, "the device's batch-invariant schedule is the host's");
_Static_assert(FM_KERNEL_MAX_SPLITS >= FM_MAX_SPLITS, "combine merges what a plan can split");
/* L2 cache policies of TMA, as CUTLASS has them (cute/arch/copy_sm90_desc.hpp). */
#define EVICT_NORMAL INT64_C(0x1000000000000000)
#define EVICT_FIRST INT64_C(0x12F0000000000000)
#define KEPT_BYTES (40 << 20) /* of q and out that L2 (50 MB on H100 and H200) keeps beside the stream */
#define LN_2 0.69314718055994531f
#define DEVICE_OF_Q "q.device.device_id"

flashmla_status fm_cuda_limits(const fm_problem *problem, int32_t num_splits, fm_backend_limits *limits) {
  const fm_driver *driver;
  fm_device device;
  FM_TRY(fm_supported_device(DEVICE_OF_Q, problem->device_id, &driver, &device));
  *limits = (fm_backend_limits){.block_rows = FM_UNIT,
                                .workers = device.processors,
                                .start_overhead = START_OVERHEAD,
                                .split_overhead = SPLIT_OVERHEAD,
                                .unit = FM_UNIT,
                                .piece_units = PIECE_UNITS,
                                .whole_units = WHOLE_UNITS,
                                .partial_bytes = FM_KERNEL_PARTIAL_BYTES,
                                .partial_facts = FM_KERNEL_PARTIAL_FACTS};
  if (fm_row_blocks(problem, FM_UNIT) == 1) limits->start_overhead = START_OVERHEAD_ALONE;
  /* Where no table is long enough to be split, num_splits 0 becomes 1 (fm_tile); that is no given split. */
  const bool balanced =
      (num_splits == 0 && !problem->batch_invariant) || fm_most_units(problem, FM_UNIT) <= WHOLE_UNITS;
  return fm_kernel_cluster(problem, balanced, device.processors, &limits->max_cluster);
}

static fm_need need_of(const fm_run *run, fm_operation operation) {
  const fm_problem *p = &run->problem;
  return (fm_need){.operation = operation,
                   .dtype = (int32_t)p->dtype,
                   .d_qk = p->d_qk,
                   .d_v = p->d_v,
                   .page_size = p->page_size,
                   .cluster = operation == FM_DENSE_DECODE ? run->tiling.cluster : 0};
}

/* A divisor d >= 1 for schedule.divide in dsl_kernels: {multiplier ceil(2^s / d), shift s = 31 + ceil(log2 d)}. With
 * numerators below 2^31 the quotient is exact (Granlund and Montgomery, "Division by Invariant Integers using
 * Multiplication", PLDI 1994). */
static int64_t divisor(int32_t d) {
  uint32_t shift = 31;
  while ((INT64_C(1) << (shift - 31)) < d) shift++;
  const uint64_t multiplier = (uint64_t)fm_ceil_div(INT64_C(1) << shift, d);
  return (int64_t)((uint64_t)shift << 32 | multiplier);
}

/* The fields that all three kernels have in common. */
#define TILING_FIELDS(run)                                                                                          \
  .cuts = &(run)->cuts->tile, .cu_seqlens_q = (run)->problem.cu_seqlens_q, .total_q = (run)->problem.total_q,       \
  .s_q = (run)->problem.s_q, .group = (run)->tiling.group, .block_heads = (run)->tiling.block_heads,                \
  .block_tokens = (run)->tiling.block_tokens, .head_chunks = (run)->tiling.head_chunks,                             \
  .cluster = (run)->tiling.cluster, .tiles_per_head = (run)->tiling.tiles_per_head,                                 \
  .tiles_per_request = (run)->tiling.tiles_per_request, .batch = (run)->problem.batch,                              \
  .num_tiles = (run)->tiling.num_tiles, .num_parts = (run)->tiling.num_parts,                                       \
  .by_tile_major = divisor((run)->tiling.request_major ? (run)->tiling.tiles_per_request : (run)->problem.batch),   \
  .by_tiles_per_head = divisor((run)->tiling.tiles_per_head), .by_head_chunks = divisor((run)->tiling.head_chunks), \
  .by_block_heads = divisor((run)->tiling.block_heads)

/* The fields that dense_decode and combine have in common. */
#define OUTPUT_FIELDS(run)                                                                                          \
  .partial = (run)->partial, .partial_facts = (run)->partial_facts, .slots_per_part = (run)->tiling.slots_per_part, \
  .out = (run)->problem.out, .lse = (run)->problem.lse, .out_stride_b = (run)->problem.out_stride[0],               \
  .out_stride_s = (run)->problem.out_stride[1], .out_stride_h = (run)->problem.out_stride[2],                       \
  .lse_stride_b = (run)->problem.lse_stride[0], .lse_stride_h = (run)->problem.lse_stride[1],                       \
  .lse_stride_s = (run)->problem.lse_stride[2], .out_is_float = (run)->problem.out_dtype == FM_FP32,                \
  .lse_factor = (run)->problem.lse_base2 ? 1.0f : LN_2, .empty_lse = (run)->problem.empty_lse

/* Tokens that a row of the block table can name; lengths are 32-bit. */
static int32_t capacity(const fm_problem *p) {
  return (int32_t)fm_min64((int64_t)p->max_blocks * p->page_size, INT32_MAX);
}

static flashmla_status launch_plan(const fm_launcher *l, const fm_run *run, const fm_loaded *loaded) {
  static const fm_param list[] = FM_PLAN_PARAMS;
  fm_plan_kernel_params params = {TILING_FIELDS(run),
                                  .cache_seqlens = run->problem.cache_seqlens,
                                  .capacity = capacity(&run->problem),
                                  .cost_before = run->cost_before,
                                  .bands = run->tiling.bands,
                                  .num_splits = run->tiling.num_splits,
                                  .piece_units = run->tiling.piece_units,
                                  .whole_units = run->tiling.whole_units,
                                  .start_overhead = run->tiling.start_overhead,
                                  .split_overhead = run->tiling.split_overhead};
  FM_LAUNCH(l, loaded, 1, &params, list);
  return FLASHMLA_OK;
}

/* How units of 64 tokens lie in the pages; a page is a power of two below 64 or a multiple of 64. */
static void set_paging(const fm_problem *p, int32_t cluster, fm_dense_decode_kernel_params *params) {
  params->page_size = p->page_size;
  params->units_per_page = p->page_size > FM_UNIT ? p->page_size / FM_UNIT : 1;
  params->pages_per_unit = p->page_size < FM_UNIT ? FM_UNIT / p->page_size : 1;
  params->box_rows = fm_min32(p->page_size, FM_UNIT / cluster);
  params->boxes = FM_UNIT / cluster / params->box_rows;
}

/* Where q and out fit into L2 the stream of KV shall not push them out: q was just written, out is read soon. */
static int64_t kv_policy(const fm_problem *p) {
  const int64_t tokens = p->varlen ? p->total_q : (int64_t)p->batch * p->s_q;
  const int64_t row_bytes = 2 * p->d_qk + (p->out_dtype == FM_FP32 ? 4 : 2) * p->d_v;
  return tokens * p->h_q <= KEPT_BYTES / row_bytes ? EVICT_FIRST : EVICT_NORMAL;
}

/* The kernel counts in 32 bits without sign; what is beyond them no length reaches. */
static void set_shard(const fm_problem *p, fm_dense_decode_kernel_params *params) {
  if (p->cp_world == 0) return;
  params->global_seqlens = p->global_seqlens;
  params->cp_period = (int32_t)(uint32_t)fm_min64((int64_t)p->cp_world * p->cp_interleave, UINT32_MAX);
  params->cp_interleave = p->cp_interleave;
  params->cp_offset = (int32_t)fm_min64((int64_t)p->cp_rank * p->cp_interleave, INT32_MAX);
}

static flashmla_status fill_dense_decode(const fm_driver *driver, const fm_run *run,
                                         fm_dense_decode_kernel_params *params) {
  const fm_problem *p = &run->problem;
  *params = (fm_dense_decode_kernel_params){TILING_FIELDS(run),
                                            OUTPUT_FIELDS(run),
                                            .block_table = p->block_table,
                                            .cache_seqlens = p->cache_seqlens,
                                            .capacity = capacity(p),
                                            .block_table_stride = p->block_table_stride,
                                            .scale_log2 = p->scale_log2,
                                            .max_blocks = p->max_blocks,
                                            .causal = p->causal,
                                            .kv_policy = kv_policy(p)};
  set_paging(p, run->tiling.cluster, params);
  set_shard(p, params);
  FM_TRY(fm_encode_q(driver, run, &params->tma_q));
  return fm_encode_kv(driver, p, params->box_rows, &params->tma_kv);
}

static flashmla_status launch_dense_decode(const fm_launcher *l, const fm_run *run, const fm_loaded *loaded,
                                           const fm_dense_decode_kernel_params *params) {
  static const fm_param list[] = FM_DENSE_DECODE_PARAMS;
  const fm_tiling *t = &run->tiling;
  /* persistent: clusters take parts in turn, so there are never more than run at once */
  const int32_t clusters = fm_min32(l->device.processors / t->cluster, t->num_parts);
  FM_LAUNCH(l, loaded, (unsigned)(clusters * t->cluster), params, list);
  return FLASHMLA_OK;
}

static flashmla_status launch_combine(const fm_launcher *l, const fm_run *run, const fm_loaded *loaded) {
  static const fm_param list[] = FM_COMBINE_PARAMS;
  const int32_t block_rows = run->tiling.block_heads * run->tiling.block_tokens;
  const fm_combine_kernel_params params = {TILING_FIELDS(run), OUTPUT_FIELDS(run), .by_block_rows = divisor(block_rows),
                                           .by_tile_rows = divisor(block_rows * run->tiling.cluster),
                                           .piece_units = run->tiling.piece_units};
  FM_LAUNCH(l, loaded, (unsigned)l->device.processors, &params, list);
  return FLASHMLA_OK;
}

static flashmla_status run_plan(const fm_launcher *l, const fm_run *run) {
  fm_loaded plan;
  FM_TRY(fm_launcher_load(l, need_of(run, FM_PLAN), &plan));
  FM_TRY(launch_plan(l, run, &plan));
  fm_set_last_kernel(plan.kernel->name);
  return FLASHMLA_OK;
}

/* All that can fail but the launches themselves comes before the first launch. */
static flashmla_status run_dense_decode(const fm_launcher *l, const fm_run *run) {
  const bool make_plan = run->make_plan, merge = run->partial != NULL;
  fm_loaded plan = {0}, dense_decode, combine = {0};
  fm_dense_decode_kernel_params params;
  if (make_plan) FM_TRY(fm_launcher_load(l, need_of(run, FM_PLAN), &plan));
  FM_TRY(fm_launcher_load(l, need_of(run, FM_DENSE_DECODE), &dense_decode));
  if (merge) FM_TRY(fm_launcher_load(l, need_of(run, FM_COMBINE), &combine));
  FM_TRY(fill_dense_decode(l->driver, run, &params));
  if (make_plan) FM_TRY(launch_plan(l, run, &plan));
  FM_TRY(launch_dense_decode(l, run, &dense_decode, &params));
  if (merge) FM_TRY(launch_combine(l, run, &combine));
  fm_set_last_kernel(dense_decode.kernel->name);
  return FLASHMLA_OK;
}

static flashmla_status run_on_device(const fm_run *run,
                                     flashmla_status (*work)(const fm_launcher *launcher, const fm_run *run)) {
  fm_launcher launcher;
  FM_TRY(fm_launcher_begin(&launcher, DEVICE_OF_Q, run->problem.device_id, run->problem.stream));
  const flashmla_status status = work(&launcher, run);
  fm_launcher_end(&launcher);
  return status;
}

flashmla_status fm_cuda_plan(const fm_run *run) { return run_on_device(run, run_plan); }

flashmla_status fm_cuda_dense_decode(const fm_run *run) { return run_on_device(run, run_dense_decode); }
