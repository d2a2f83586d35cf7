/* cuda.c - see cuda.h. */
#include "attention/cuda.h"

_Static_assert(FM_KERNEL_MAX_SPLITS >= FM_MAX_SPLITS, "combine merges what a plan can split");

/* The kernel that joins partial results: fold where the work is batch invariant, else combine. */
static flashmla_status load_join(fm_gpu gpu, const fm_attention *attention, fm_loaded *join) {
  const fm_kernel_family family = attention->tiling.piece_units > 0 ? FM_KERNEL_FOLD : FM_KERNEL_COMBINE;
  const fm_need need = {.family = family, .elements = {.out = (int8_t)attention->queries.dtype}, .d_v = attention->d_v};
  return fm_load(gpu, need, join);
}

/* A warp merges a row of few pieces sooner than a CTA does, which is for many pieces of few rows. */
#define WARP_PIECES 16
#define FEW_PIECES 32 /* of which few CTAs merge few rows */
/* Few CTAs are launched sooner than one on each SM, and let the next call's begin beside them. */
#define FEW_CTAS 64
#define FEWEST_CTAS 32

typedef struct fm_join {
  int32_t ctas, rows_of_ctas; /* which merge a row each, where there are no more than so many rows; else a warp does */
} fm_join;

static fm_join join_of(const fm_attention *attention, int32_t processors) {
  const fm_tiling *tiling = &attention->tiling;
  const int64_t rows = (int64_t)tiling->num_tiles * tiling->cluster * tiling->block_heads * tiling->block_tokens;
  const int64_t pieces = fm_ceil_div(tiling->num_parts, tiling->num_tiles);
  /* how many rows there are does not show in batch-invariant ones */
  const bool by_warp = attention->work.batch_invariant || pieces <= WARP_PIECES || rows > processors;
  int64_t ctas = fm_max64(fm_clamp64(rows / 4, FEWEST_CTAS, FEW_CTAS), rows / 8);
  if (!by_warp) ctas = rows <= FEW_CTAS && pieces <= FEW_PIECES ? FEW_CTAS : processors;
  return (fm_join){(int32_t)fm_min64(ctas, processors), by_warp ? 0 : processors};
}

static flashmla_status launch_combine(fm_gpu gpu, const fm_loaded *combine, const fm_attention *attention,
                                      void *stream) {
  const fm_join join = join_of(attention, gpu.device->processors);
  const fm_combine_kernel_params params = {FM_ATTENTION_FIELDS(attention),
                                           FM_KNOWN_CUTS_FIELDS(&attention->known),
                                           .slots_per_part = attention->tiling.slots_per_part,
                                           .by_block_rows = attention->divisors.block_rows,
                                           .by_tile_rows = attention->divisors.tile_rows,
                                           .rows_of_blocks = join.rows_of_ctas};
  return fm_launch(gpu, combine, join.ctas, &params, stream);
}

static flashmla_status launch_fold(fm_gpu gpu, const fm_loaded *fold, const fm_attention *attention, void *stream) {
  const fm_fold_kernel_params params = {FM_ATTENTION_FIELDS(attention), .capacity = attention->work.capacity,
                                        FM_SLOT_FIELDS(&attention->tiling, &attention->divisors, &attention->schedule)};
  return fm_launch(gpu, fold, gpu.device->processors * FM_KERNEL_FOLD_BLOCKS, &params, stream);
}

static flashmla_status launch_join(fm_gpu gpu, const fm_loaded *join, const fm_attention *attention, void *stream) {
  if (attention->tiling.piece_units > 0) return launch_fold(gpu, join, attention, stream);
  return launch_combine(gpu, join, attention, stream);
}

/* `columns` of queries from an address on. With variable-length queries the tokens of all requests are those of one.
 * Rows and columns beyond the tensor read as zeros. */
static fm_tensor_map query_map(const fm_attention *attention, const void *address, const int64_t stride[3],
                               int32_t columns) {
  const fm_work *work = &attention->work;
  const fm_tiling *tiling = &attention->tiling;
  const fm_queries *q = &attention->queries;
  const int32_t box_columns = FM_SWIZZLE_BYTES / fm_dtype_bytes(q->dtype);
  const int32_t together = q->coded ? fm_dtype_bytes(q->dtype) : 1; /* codes, as one element of that type */
  return (fm_tensor_map){
      .dtype = q->dtype,
      .rank = 5,
      .address = address,
      .extents = {columns / together, tiling->group, work->varlen ? work->total_q : work->s_q, work->h_kv,
                  work->varlen ? 1 : work->batch},
      .strides = {1, stride[2] / together, stride[1] / together, stride[2] / together * tiling->group,
                  stride[0] / together},
      .box = {(uint32_t)box_columns, (uint32_t)tiling->block_heads, (uint32_t)tiling->block_tokens, 1, 1}};
}

/* Whether there are RoPE columns. */
static bool has_rope(const fm_attention *attention) { return attention->queries.d_qk > attention->d_v; }

static flashmla_status encode_queries(const fm_attention *attention, fm_attention_kernels *kernels) {
  const fm_queries *q = &attention->queries;
  const fm_driver *driver = kernels->gpu.driver;
  const fm_tensor_map latent = query_map(attention, q->data, q->stride, attention->d_v);
  FM_TRY(fm_encode(driver, &latent, &kernels->q_map));
  if (!has_rope(attention)) return FLASHMLA_OK;
  const fm_tensor_map rope = query_map(attention, q->rope, q->rope_stride, q->d_qk - attention->d_v);
  return fm_encode(driver, &rope, &kernels->q_rope_map);
}

flashmla_status fm_encode_queries_again(const fm_attention *attention, fm_attention_kernels *kernels) {
  const fm_driver *driver = kernels->gpu.driver;
  FM_TRY(fm_encode_address(driver, attention->queries.data, &kernels->q_map));
  if (!has_rope(attention)) return FLASHMLA_OK;
  return fm_encode_address(driver, attention->queries.rope, &kernels->q_rope_map);
}

/* Nobody reads a schedule whose cuts are known. */
static bool launches_plan(const fm_attention *attention) {
  return fm_makes_schedule(attention) && attention->known.tile_cost == 0;
}

flashmla_status fm_load_attention(fm_need need, fm_attention *attention, fm_attention_kernels *kernels) {
  const fm_gpu gpu = kernels->gpu;
  attention->divisors = fm_divisors_of(&attention->work, &attention->tiling);
  if (launches_plan(attention)) FM_TRY(fm_load_plan(gpu, &kernels->plan));
  FM_TRY(fm_load(gpu, need, &kernels->attend));
  if (fm_may_split(&attention->tiling)) FM_TRY(load_join(gpu, attention, &kernels->join));
  return encode_queries(attention, kernels);
}

static flashmla_status launch_plan(const fm_attention *attention, const fm_attention_kernels *kernels, void *stream) {
  return fm_launch_plan(kernels->gpu, &kernels->plan, &attention->work, &attention->tiling, &attention->divisors,
                        &attention->schedule, stream);
}

flashmla_status fm_launch_schedule(const fm_attention *attention, const fm_attention_kernels *kernels, void *stream) {
  FM_TRY(launch_plan(attention, kernels, stream));
  fm_set_last_kernel(kernels->plan.kernel->name);
  return FLASHMLA_OK;
}

flashmla_status fm_launch_attention(const fm_attention *attention, const fm_attention_kernels *kernels,
                                    const fm_attend *attends, int32_t count, void *stream) {
  const fm_tiling *tiling = &attention->tiling;
  const fm_gpu gpu = kernels->gpu;
  if (launches_plan(attention)) FM_TRY(launch_plan(attention, kernels, stream));
  for (int32_t i = 0; i < count; ++i) {
    /* persistent: the blocks of tiles take parts in turn, so there are never more than run at once */
    const int32_t tiles = attends[i].kernel->clusters * attends[i].kernel->kernel->cluster / tiling->cluster;
    const int32_t workers = fm_min32(fm_max32(tiles, 1), attends[i].num_parts);
    FM_TRY(fm_launch(gpu, attends[i].kernel, workers * tiling->cluster, attends[i].params, stream));
  }
  if (fm_may_split(tiling)) FM_TRY(launch_join(gpu, &kernels->join, attention, stream));
  fm_set_last_kernel(kernels->attend.kernel->name);
  return FLASHMLA_OK;
}
