/* cuda.c - dense_decode and its plan on a GPU: limits, the choice of a kernel, its parameters, the order of launches.
 */
#include "attention/cuda.h"
#include "ops/dense_decode/dense_decode.h"

/* Units: a tile's Q load, pipeline fill and output take about as long as 4 units, or as 3 where nobody shares what is
 * read, so that a unit takes longer. */
#define START_OVERHEAD 4
#define START_OVERHEAD_ALONE 3
#define SPLIT_OVERHEAD 8 /* units: partial rows and their merge */
/* Units of a quantum of batch-invariant work: with shorter ones more requests are cut evenly, but more rows are carried
 * and folded, which costs little where a KV head has few heads. It must not depend on how many tokens there are. */
#define PIECE_UNITS 32
#define PIECE_UNITS_FEW 16
#define FEW_HEADS 32
#define PIECE_OVERHEAD 3 /* units: the rows of a piece are stored, and read again where the next one ends */
#define PIECE_OVERHEAD_FEW 1
#define CARRIES 2     /* slots of a part: of the node and of the tile that it folds */
#define WHOLE_UNITS 3 /* of a tile that is not split: partial rows and their merge take longer */
#define LARGEST_CLUSTER 2
/* TMA brings boxes of rows of a page; smaller ones take longer than rows that are gathered. */
#define BOX_ROWS 16
/* L2 cache policies of TMA, as CUTLASS has them (cute/arch/copy_sm90_desc.hpp). */
#define EVICT_NORMAL INT64_C(0x1000000000000000)
#define EVICT_FIRST INT64_C(0x12F0000000000000)
#define KEPT_FIFTHS 4 /* of L2 that may hold q and out beside the stream */
#define DEVICE_OF_Q "q.device.device_id"

static bool quantizes(const fm_paged *paged) { return fm_quantizes(paged->pages.format); }

/* Whether a batch-invariant call has kernels that fold pieces, which splits requests. Others of them attend each
 * request whole, which makes its bits its own, too. */
static bool folds(const fm_dense_decode *decode) {
  return decode->attention.work.batch_invariant && decode->attention.work.window == 0 && !quantizes(&decode->paged);
}

/* Whether rows are best gathered. Kernels that fold do not. Of codes, TMA brings boxes of whole units in
 * which each has its scales. */
static bool gathers(const fm_dense_decode *decode) {
  const fm_pages *pages = &decode->paged.pages;
  if (quantizes(&decode->paged)) return pages->page_size % FM_KERNEL_UNIT != 0 || pages->format->split;
  return pages->page_size % BOX_ROWS != 0 && !folds(decode);
}

static fm_need need_of(const fm_dense_decode *decode, int32_t cluster) {
  const fm_paged *paged = &decode->paged;
  const int32_t page_size = paged->pages.page_size;
  const bool whole = quantizes(paged) ? page_size % FM_KERNEL_UNIT == 0 : page_size == FM_KERNEL_UNIT;
  const bool fp8 = decode->fp8_products && decode->attention.queries.coded;
  const int8_t q = (int8_t)decode->attention.queries.dtype; /* and of results, where they are not float32 */
  return (fm_need){.family = FM_KERNEL_DENSE_DECODE,
                   .elements = {.q = q, .cache = q, .out = q},
                   .kv_format = (int8_t)paged->kv_format,
                   .d_qk = fm_kernel_geometry(decode->attention.queries.d_qk, decode->attention.d_v)->d_qk,
                   .d_v = decode->attention.d_v,
                   .features = whole ? 0 : FM_DENSE_DECODE_ANY_PAGE,
                   .lacking = "pages of 64 tokens",
                   .preferred = gathers(decode) && cluster == 1 ? FM_DENSE_DECODE_GATHERS
                                : fp8                           ? FM_DENSE_DECODE_FP8_PRODUCTS
                                                                : 0,
                   .without = fp8 ? 0 : FM_DENSE_DECODE_FP8_PRODUCTS,
                   .batch_invariant = folds(decode),
                   .cluster = cluster,
                   .may_be_forced = true};
}

bool fm_multiplies_codes(const fm_call *call, const fm_dense_decode *decode) {
  if (!call->cuda || !decode->fp8_products) return false;
  fm_gpu gpu;
  if (fm_gpu_open(DEVICE_OF_Q, call->device_id, &gpu) != FLASHMLA_OK) return false; /* the call will fail */
  fm_need need = need_of(decode, 1);
  if ((need.preferred & FM_DENSE_DECODE_FP8_PRODUCTS) == 0) return false;
  need.features |= need.preferred;
  return fm_kernel_find(&need, gpu.device->arch, gpu.driver->version) != NULL;
}

/* The row that a tuning file names, if it does the call; NULL: none. */
static const fm_kernel *tuned_kernel(const fm_dense_decode *decode, fm_gpu gpu, int64_t blocks) {
  const int32_t row = decode->attention.tuned.found ? decode->attention.tuned.kernel : 0;
  if (row == 0) return NULL;
  const fm_kernel *kernel = &fm_kernels[row - 1];
  const fm_need need = need_of(decode, kernel->cluster);
  const bool fits = kernel->cluster <= blocks && fm_kernel_does(kernel, &need, gpu.device->arch, gpu.driver->version);
  return fits ? kernel : NULL;
}

/* Two blocks of query rows share what they read: half the traffic from L2. More of them, if they are cut alike, read it
 * in step and are better alone: none is joined by an idle one, and none waits for another. Rows that are gathered
 * and codes are not shared. A call with a plan has the tiles of that. */
static flashmla_status choose_cluster(const fm_dense_decode *decode, fm_gpu gpu, int64_t blocks, bool balanced,
                                      int32_t *cluster) {
  const fm_attention *attention = &decode->attention;
  const fm_work *work = &attention->work;
  const fm_kernel *named;
  FM_TRY(fm_kernel_forced(FM_KERNEL_DENSE_DECODE, &named));
  if (named == NULL && attention->own_plan) named = tuned_kernel(decode, gpu, blocks);
  const bool alike = balanced && fm_cut_alike(work, gpu.device->processors, work->h_kv * blocks);
  const bool in_step = alike && blocks > LARGEST_CLUSTER;
  const bool joined = named != NULL          ? named->cluster > 1
                      : !attention->own_plan ? attention->stamp.cluster > 1
                                             : !in_step && !gathers(decode);
  *cluster = blocks > 1 && joined && !quantizes(&decode->paged) ? LARGEST_CLUSTER : 1;
  return FLASHMLA_OK;
}

/* The clusters that run at once become the workers; a device that runs none gets blocks. */
static flashmla_status count_clusters(fm_gpu gpu, const fm_dense_decode *decode, fm_limits *limits) {
  fm_need need = need_of(decode, limits->max_cluster);
  need.may_be_forced = false; /* a forced kernel that does not fit is the decode call's to refuse */
  fm_loaded loaded;
  FM_TRY(fm_load(gpu, need, &loaded));
  if (loaded.clusters > 0)
    limits->workers = fm_min32(loaded.clusters * limits->max_cluster, FM_KERNEL_MAX_PARTS);
  else
    limits->max_cluster = 1;
  return FLASHMLA_OK;
}

flashmla_status fm_dense_decode_cuda_limits(const fm_call *call, const fm_dense_decode *decode, fm_limits *limits) {
  const fm_work *work = &decode->attention.work;
  fm_gpu gpu;
  FM_TRY(fm_gpu_open(DEVICE_OF_Q, call->device_id, &gpu));
  const int64_t blocks = fm_row_blocks(work, FM_KERNEL_UNIT);
  const bool few_heads = work->h_q / work->h_kv <= FEW_HEADS;
  *limits = (fm_limits){.block_rows = FM_KERNEL_UNIT,
                        .workers = fm_min32(gpu.device->processors, FM_KERNEL_MAX_PARTS),
                        .start_overhead = blocks == 1 ? START_OVERHEAD_ALONE : START_OVERHEAD,
                        .split_overhead = SPLIT_OVERHEAD,
                        .unit = FM_KERNEL_UNIT,
                        .piece_units = !folds(decode) ? 0
                                       : few_heads    ? PIECE_UNITS_FEW
                                                      : PIECE_UNITS,
                        .piece_overhead = few_heads ? PIECE_OVERHEAD_FEW : PIECE_OVERHEAD,
                        .whole_units = WHOLE_UNITS,
                        .carries = CARRIES,
                        .max_slots = FM_KERNEL_MAX_SLOTS,
                        .stripe_rows = FM_KERNEL_STRIPE,
                        .partial_bytes = folds(decode) ? (int32_t)sizeof(float) : FM_KERNEL_PARTIAL_BYTES,
                        .partial_facts = FM_KERNEL_PARTIAL_FACTS};
  /* Where no table is long enough to be split, num_splits 0 becomes 1 (fm_tile); that is no given split. Nor is it in
   * batch-invariant calls. */
  const bool balanced =
      work->num_splits == 0 || work->batch_invariant || fm_most_units(work, FM_KERNEL_UNIT) <= WHOLE_UNITS;
  FM_TRY(choose_cluster(decode, gpu, blocks, balanced, &limits->max_cluster));
  return limits->max_cluster > 1 && blocks > 1 ? count_clusters(gpu, decode, limits) : FLASHMLA_OK;
}

static fm_paging paging_of(int32_t page_size, int32_t cluster) {
  const int32_t rows = FM_KERNEL_UNIT / cluster, box_rows = fm_min32(page_size & -page_size, rows);
  const int32_t inverse = (int32_t)fm_ceil_div(1 << FM_KERNEL_LOG_INVERSE, page_size);
  return (fm_paging){.whole_pages = FM_KERNEL_UNIT / page_size,
                     .rows_beyond = FM_KERNEL_UNIT % page_size,
                     .boxes = rows / box_rows,
                     .box_rows = box_rows,
                     .page_inverse = page_size < FM_KERNEL_UNIT ? inverse : 0,
                     .by_page = fm_divisor(page_size)};
}

/* kv_cache as (d, row, head, block), with a box of some rows of a page. A page number outside [0, num_blocks) reads as
 * zeros, and so do columns behind the end of a row: the hardware checks the bounds. Rows of codes, which lie one after
 * another, are of elements of two bytes, too. */
static fm_tensor_map cache_map(const fm_dense_decode *decode) {
  const fm_pages *pages = &decode->paged.pages;
  const fm_dtype dtype = quantizes(&decode->paged) ? FM_BF16 : pages->dtype;
  const int32_t bytes = fm_dtype_bytes(dtype), columns = FM_SWIZZLE_BYTES / bytes;
  const int32_t width = quantizes(&decode->paged) ? (int32_t)pages->row_step / bytes : pages->columns;
  return (fm_tensor_map){.dtype = dtype,
                         .rank = 4,
                         .address = pages->data,
                         .extents = {width, pages->page_size, decode->attention.work.h_kv, pages->num_blocks},
                         .strides = {1, pages->row_step / bytes, pages->head_step / bytes, pages->block_step / bytes},
                         .box = {(uint32_t)columns, (uint32_t)decode->paging.box_rows, 1, 1}};
}

/* Where q and out fit into L2 the stream of KV shall not push them out: q was just written, out is read soon. */
static int64_t kv_policy(const fm_dense_decode *decode) {
  const fm_tuned *tuned = &decode->attention.tuned;
  if (tuned->found && tuned->l2_policy != FLASHMLA_L2_RULE)
    return tuned->l2_policy == FLASHMLA_L2_EVICT_FIRST ? EVICT_FIRST : EVICT_NORMAL;
  const int64_t kept_bytes = (int64_t)decode->kernels.gpu.device->l2_bytes / 5 * KEPT_FIFTHS;
  const int64_t row_bytes = (int64_t)fm_dtype_bytes(decode->attention.queries.dtype) * decode->attention.queries.d_qk +
                            (int64_t)fm_dtype_bytes(decode->attention.output.dtype) * decode->attention.d_v;
  const fm_work *work = &decode->attention.work;
  return fm_query_tokens(work) * work->h_q <= kept_bytes / row_bytes ? EVICT_FIRST : EVICT_NORMAL;
}

/* The kernel counts in 32 bits without sign; what is beyond them no length reaches. */
fm_shard fm_shard_of(const fm_mask *mask) {
  if (mask->cp_world == 0) return (fm_shard){0};
  return (fm_shard){
      .period = (int32_t)(uint32_t)fm_min64((int64_t)mask->cp_world * mask->cp_interleave, UINT32_MAX),
      .interleave = mask->cp_interleave,
      .offset = (int32_t)fm_min64((int64_t)mask->cp_rank * mask->cp_interleave, INT32_MAX),
  };
}

/* Whether the cache is read by TMA. */
static bool maps_cache(const fm_attention_kernels *kernels) {
  return (kernels->attend.kernel->features & FM_DENSE_DECODE_GATHERS) == 0;
}

/* All that can fail but the launches themselves. */
static flashmla_status prepare(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  fm_attention *attention = &decode->attention;
  fm_gpu *gpu = &decode->kernels.gpu;
  decode->paging = paging_of(decode->paged.pages.page_size, attention->tiling.cluster);
  FM_TRY(fm_gpu_open(DEVICE_OF_Q, call->device_id, gpu));
  decode->kv_policy = kv_policy(decode);
  FM_TRY(fm_prepare_check(decode));
  fm_need need = need_of(decode, attention->tiling.cluster);
  need.tuned = tuned_kernel(decode, *gpu, attention->tiling.blocks);
  FM_TRY(fm_load_attention(need, attention, &decode->kernels));
  if (!maps_cache(&decode->kernels)) return FLASHMLA_OK;
  const fm_tensor_map cache = cache_map(decode);
  return fm_encode(gpu->driver, &cache, &decode->cache_map);
}

/* Of a row of the cache. Kernels of formats with scales do not look at it: there it is any number. */
static int32_t rope_bytes(const fm_dense_decode *decode) {
  return fm_dtype_bytes(decode->paged.pages.dtype) * (decode->attention.queries.d_qk - decode->attention.d_v);
}

/* Kernels read an entry ahead of the length. Of a table without columns, behind which no length reaches, they read any
 * integer in its place. */
static const int32_t *table_of(const fm_dense_decode *decode) {
  return decode->paged.max_blocks > 0 ? decode->paged.block_table : decode->attention.work.lengths;
}

static flashmla_status launch_all(const void *state) {
  const fm_dense_decode *decode = state;
  const fm_attention *attention = &decode->attention;
  const fm_tiling *tiling = &attention->tiling;
  const fm_paged *paged = &decode->paged;
  const fm_pages *pages = &paged->pages;
  const fm_paging paging = decode->paging;
  const fm_shard shard = fm_shard_of(&attention->mask);
  fm_dense_decode_kernel_params params = {FM_ATTENTION_FIELDS(attention),
                                          FM_SLOT_FIELDS(tiling, &attention->divisors, &attention->schedule),
                                          .slots_per_part = tiling->slots_per_part,
                                          .tma_q = decode->kernels.q_map,
                                          .tma_q_rope = decode->kernels.q_rope_map,
                                          .tma_kv = decode->cache_map,
                                          .block_table = table_of(decode),
                                          .lengths = attention->work.lengths,
                                          .capacity = attention->work.capacity,
                                          .block_table_stride = paged->block_table_stride,
                                          .scale_log2 = decode->attention.queries.scale_log2,
                                          .max_blocks = paged->max_blocks > 0 ? paged->max_blocks : 1,
                                          .causal = attention->mask.causal,
                                          .kv_policy = decode->kv_policy,
                                          .page_size = pages->page_size,
                                          .whole_pages = paging.whole_pages,
                                          .rows_beyond = paging.rows_beyond,
                                          .boxes = paging.boxes,
                                          .box_rows = paging.box_rows,
                                          .global_seqlens = attention->mask.global_seqlens,
                                          .cp_period = shard.period,
                                          .cp_interleave = shard.interleave,
                                          .cp_offset = shard.offset,
                                          .window = attention->mask.window,
                                          .page_inverse = paging.page_inverse,
                                          .by_page = paging.by_page,
                                          .cache = pages->data,
                                          .block_step = pages->block_step,
                                          .row_step = pages->row_step,
                                          .head_step = pages->head_step,
                                          .num_blocks = pages->num_blocks,
                                          .scales_at = pages->scales_at,
                                          .scales_step = pages->format->scales_step,
                                          .descale_k = pages->descale,
                                          .q_coded = attention->queries.coded,
                                          .descale_q = attention->queries.descale,
                                          .rope_bytes = rope_bytes(decode)};
  FM_TRY(fm_launch_check(decode));
  const fm_attend attend = {&decode->kernels.attend, tiling->num_parts, &params};
  return fm_launch_attention(attention, &decode->kernels, &attend, 1, decode->stream);
}

static flashmla_status launch(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  fm_attention_kernels *kernels = &decode->kernels;
  if (call->again) {
    FM_TRY(fm_encode_queries_again(&decode->attention, kernels));
    if (maps_cache(kernels))
      FM_TRY(fm_encode_address(kernels->gpu.driver, decode->paged.pages.data, &decode->cache_map));
  }
  return fm_in_context(kernels->gpu, launch_all, decode);
}

const fm_backend fm_dense_decode_cuda = {prepare, launch};
