/* cuda.c - sparse_decode on a GPU: limits, the choice of a kernel, its parameters, the order of launches. */
#include "attention/cuda.h"
#include "ops/sparse_decode/sparse_decode.h"

/* Blocks of a tile: heads of one query token, which attend the same rows. */
#define PAIR 2
/* Pairs serve where there is a block for more than one in so many processors: else calls are short, and a pair waits
 * for both its blocks at either end of each piece. */
#define FEW 2
/* Units, see dense_decode's. There are no quanta of batch-invariant work: what a query token selects is short enough to
 * be attended whole. Fixed pieces would need partial rows of every token. */
#define START_OVERHEAD 3
#define SPLIT_OVERHEAD 8
#define WHOLE_UNITS 2
#define JOIN_OVERHEAD 1 /* what it takes at least to join pieces */
#define UNIT_ROWS 4096  /* partial rows that take as long as a unit to be written and joined */
#define DEVICE_OF_Q "q.device.device_id"

static fm_need need_of(const fm_attention *attention, int32_t kv_format, int32_t cluster) {
  const int8_t bf16 = FM_BF16;
  return (fm_need){.family = FM_KERNEL_SPARSE_DECODE,
                   .elements = {.q = bf16, .cache = bf16, .out = bf16},
                   .kv_format = (int8_t)kv_format,
                   .d_qk = attention->queries.d_qk,
                   .d_v = attention->d_v,
                   .cluster = cluster};
}

/* Whether both blocks of heads of a query token are a tile: where they make what they attend for each other. Rows that
 * need no conversion are best fetched by each block in its own time. A call that follows a plan has the tiles of that.
 */
static flashmla_status choose_pairs(const fm_sparse_decode *decode, fm_gpu gpu, bool *pairs) {
  const fm_attention *attention = &decode->attention;
  const fm_work *work = &attention->work;
  const fm_kernel *named;
  FM_TRY(fm_kernel_forced(FM_KERNEL_SPARSE_DECODE, &named));
  const bool wanted = named != NULL ? named->cluster > 1 : fm_query_tokens(work) * PAIR * FEW > gpu.device->processors;
  *pairs =
      wanted && !decode->as_few && work->h_q > FM_KERNEL_UNIT && fm_quantizes(decode->selections[FM_MAIN].pages.format);
  if (!fm_makes_schedule(attention)) *pairs = attention->stamp.cluster > 1;
  return FLASHMLA_OK;
}

/* The pairs of processors that run at once become the workers; a device that runs none gets blocks. All kernels for
 * pairs take a processor a block, so that of any format tells for one that q is not of, which a plan may be told, and
 * for bfloat16 that follows the plan of another. */
static flashmla_status count_pairs(fm_gpu gpu, const fm_sparse_decode *decode, fm_limits *limits) {
  const fm_attention *attention = &decode->attention;
  const int32_t d_qk = attention->queries.d_qk;
  int32_t kv_format = decode->selections[FM_MAIN].kv_format;
  if (fm_format_at(kv_format)->columns != d_qk)
    kv_format = d_qk > attention->d_v ? FLASHMLA_KV_V32 : FLASHMLA_KV_V32_NOPE;
  fm_loaded loaded;
  FM_TRY(fm_load(gpu, need_of(attention, kv_format, PAIR), &loaded));
  if (loaded.clusters > 0)
    limits->workers = fm_min32(loaded.clusters * PAIR, FM_KERNEL_MAX_PARTS);
  else
    limits->max_cluster = 1;
  return FLASHMLA_OK;
}

flashmla_status fm_sparse_decode_cuda_limits(const fm_call *call, const fm_sparse_decode *decode, fm_limits *limits) {
  fm_gpu gpu;
  FM_TRY(fm_gpu_open(DEVICE_OF_Q, call->device_id, &gpu));
  bool pairs;
  FM_TRY(choose_pairs(decode, gpu, &pairs));
  *limits = (fm_limits){.block_rows = FM_KERNEL_UNIT,
                        .max_cluster = pairs ? PAIR : 1,
                        .workers = fm_min32(gpu.device->processors, FM_KERNEL_MAX_PARTS),
                        .start_overhead = START_OVERHEAD,
                        .split_overhead = SPLIT_OVERHEAD,
                        .unit = FM_KERNEL_UNIT,
                        .whole_units = WHOLE_UNITS,
                        .join_overhead = JOIN_OVERHEAD,
                        .unit_rows = UNIT_ROWS,
                        .partial_bytes = FM_KERNEL_PARTIAL_BYTES,
                        .partial_facts = FM_KERNEL_PARTIAL_FACTS};
  return limits->max_cluster > 1 ? count_pairs(gpu, decode, limits) : FLASHMLA_OK;
}

/* Of rows that need no conversion each block of a tile fetches all for itself. */
static fm_need need_of_selection(const fm_sparse_decode *decode, int32_t which) {
  const fm_selection *selection = &decode->selections[which];
  const int32_t cluster = fm_quantizes(selection->pages.format) ? decode->attention.tiling.cluster : 1;
  fm_need need = need_of(&decode->attention, selection->kv_format, cluster);
  need.may_be_forced = which == FM_MAIN;
  need.extra = which == FM_EXTRA;
  return need;
}

static flashmla_status prepare(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  fm_attention *attention = &decode->attention;
  fm_gpu *gpu = &decode->kernels.gpu;
  FM_TRY(fm_gpu_open(DEVICE_OF_Q, call->device_id, gpu));
  FM_TRY(fm_prepare_sparse_check(decode));
  attention->known = fm_cuts_known(&attention->work, &attention->tiling);
  if (attention->work.apart) FM_TRY(fm_load(*gpu, need_of_selection(decode, FM_EXTRA), &decode->attend_extra));
  return fm_load_attention(need_of_selection(decode, FM_MAIN), attention, &decode->kernels);
}

/* Of a launch on one selection or on both. */
static fm_sparse_decode_kernel_params params_of(const fm_sparse_decode *decode, const fm_attention *attention,
                                                const fm_selection *main, const fm_selection *extra) {
/* Fields of the params that tell about a selection; one that is not there has a page of one token, for by_page. */
#define SELECTION_FIELDS(prefix, selection)                                                                        \
  FM_INDICES_PARAMS(prefix, selection),                                                                            \
      .prefix##cache = (selection)->pages.data, .prefix##block_step = (selection)->pages.block_step,               \
      .prefix##scales_at = (selection)->pages.scales_at,                                                           \
      .prefix##by_page = fm_divisor(fm_max32((selection)->pages.page_size, 1)),                                    \
      .prefix##page_size = (selection)->pages.page_size, .prefix##row_step = (int32_t)(selection)->pages.row_step, \
      .prefix##scales_step = (selection)->pages.format != NULL ? (selection)->pages.format->scales_step : 0
  return (fm_sparse_decode_kernel_params){FM_ATTENTION_FIELDS(attention),
                                          FM_KNOWN_CUTS_FIELDS(&attention->known),
                                          SELECTION_FIELDS(, main),
                                          SELECTION_FIELDS(extra_, extra),
                                          .tma_q = decode->kernels.q_map,
                                          .tma_q_rope = decode->kernels.q_rope_map,
                                          .lengths = attention->work.lengths,
                                          .capacity = attention->work.capacity,
                                          .extra_lengths = attention->work.extra_lengths,
                                          .extra_capacity = attention->work.extra_capacity,
                                          .scale_log2 = attention->queries.scale_log2,
                                          .slots_per_part = attention->tiling.slots_per_part,
                                          .stores_all = attention->work.apart};
#undef SELECTION_FIELDS
}

/* What the launch on one selection of work apart is told: of nothing but that. */
static fm_sparse_decode_kernel_params params_apart(const fm_sparse_decode *decode, int32_t which) {
  const fm_attention *all = &decode->attention;
  const fm_selection none = {0};
  fm_attention own = *all;
  if (which == FM_EXTRA) {
    own.work.lengths = all->work.extra_lengths;
    own.work.capacity = all->work.extra_capacity;
  }
  own.work.extra_lengths = NULL;
  own.work.extra_capacity = 0;
  own.tiling = fm_tiling_of_kind(&all->tiling);
  own.schedule.cuts = fm_cuts_of_kind(&all->tiling, all->schedule, which);
  own.partials = fm_partials_of_kind(&all->tiling, all->d_v, all->partials, which);
  return params_of(decode, &own, &decode->selections[which], &none);
}

static flashmla_status launch_apart(const fm_sparse_decode *decode) {
  const fm_sparse_decode_kernel_params main = params_apart(decode, FM_MAIN), extra = params_apart(decode, FM_EXTRA);
  const fm_attend attends[] = {{&decode->kernels.attend, main.num_parts, &main},
                               {&decode->attend_extra, extra.num_parts, &extra}};
  return fm_launch_attention(&decode->attention, &decode->kernels, attends, FM_SELECTIONS, decode->stream);
}

static flashmla_status launch_all(const void *state) {
  const fm_sparse_decode *decode = state;
  const fm_attention *attention = &decode->attention;
  FM_TRY(fm_launch_sparse_check(decode));
  if (attention->work.apart) return launch_apart(decode);
  const fm_sparse_decode_kernel_params params =
      params_of(decode, attention, &decode->selections[FM_MAIN], &decode->selections[FM_EXTRA]);
  const fm_attend attend = {&decode->kernels.attend, params.num_parts, &params};
  return fm_launch_attention(attention, &decode->kernels, &attend, 1, decode->stream);
}

static flashmla_status launch(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  fm_attention_kernels *kernels = &decode->kernels;
  if (call->again) FM_TRY(fm_encode_queries_again(&decode->attention, kernels));
  return fm_in_context(kernels->gpu, launch_all, decode);
}

const fm_backend fm_sparse_decode_cuda = {prepare, launch};
