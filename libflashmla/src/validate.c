/* validate.c - every rule on the arguments of dense decode and of its plan. The first rule broken is reported; the
 * order is
 *   1. the params struct: NULL and struct_size (params.c), flags, reserved fields, scalars that the sizes depend on
 *   2. tensors present, ranks     3. dtypes     4. devices     5. extents: range, then equal where they share a name
 *   6. head counts                7. what the library supports (2xx)
 *   8. tensor by tensor: strides, overlap, address     9. the other scalars
 * The size queries stop after 7. A plan looks at the memory of cache_seqlens and
 * cu_seqlens_q alone. Workspace and plan buffers follow
 * in api.c, which knows their size. The same rules hold on both backends, except where CUDA is named. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "tensor.h"
#include "try.h"

enum {
  Q,
  KV_CACHE,
  BLOCK_TABLE,
  CACHE_SEQLENS,
  CU_SEQLENS_Q,
  PLAN_TENSORS,
  OUT = PLAN_TENSORS,
  LSE,
  GLOBAL_SEQLENS,
  DECODE_TENSORS
};

/* Without cu_seqlens_q; see list_arguments. */
static const fm_argument batched[DECODE_TENSORS] = {
    [Q] = {.name = "q", .rank = 4, .axes = {FM_BATCH, FM_S_Q, FM_H_Q, FM_D_QK}, .alignment = 16},
    [KV_CACHE] = {.name = "kv_cache",
                  .rank = 4,
                  .axes = {FM_NUM_BLOCKS, FM_PAGE_SIZE, FM_H_KV, FM_D_QK},
                  .alignment = 16},
    [BLOCK_TABLE] =
        {.name = "block_table", .rank = 2, .axes = {FM_BATCH, FM_MAX_BLOCKS}, .element = FM_INT32, .alignment = 4},
    [CACHE_SEQLENS] = {.name = "cache_seqlens", .rank = 1, .axes = {FM_BATCH}, .element = FM_INT32, .alignment = 4},
    [CU_SEQLENS_Q] = {.name = "cu_seqlens_q",
                      .rank = 1,
                      .axes = {FM_OFFSETS},
                      .element = FM_INT32,
                      .alignment = 4,
                      .optional = true},
    [OUT] = {.name = "out",
             .rank = 4,
             .axes = {FM_BATCH, FM_S_Q, FM_H_Q, FM_D_V},
             .element = FM_AS_FIRST_OR_FLOAT32,
             .alignment = 16,
             .written = true},
    [LSE] = FM_LSE_OUTPUT,
    [GLOBAL_SEQLENS] = {.name = "global_seqlens",
                        .rank = 1,
                        .axes = {FM_BATCH},
                        .element = FM_INT32,
                        .alignment = 4,
                        .optional = true},
};

static void list_arguments(bool varlen, fm_argument arguments[DECODE_TENSORS]) {
  memcpy(arguments, batched, sizeof batched);
  if (!varlen) return;
  arguments[Q] = fm_drop_batch(batched[Q]);
  arguments[OUT] = fm_drop_batch(batched[OUT]);
  arguments[LSE] = fm_drop_batch(batched[LSE]);
}

/* Latent dimensions, which are the value, with and without RoPE dimensions behind them. */
static const struct {
  int32_t d_qk, d_v;
} geometries[] = {{576, 512}, {512, 512}, {320, 256}};
enum { GEOMETRIES = sizeof geometries / sizeof geometries[0] };

enum {
  CUDA_KV_ROWS = 64, /* that the kernels read at once: of several pages, or of a part of one */
};

/* Rule 1 as far as both operations have it; begins *problem. */
static flashmla_status check_form(uint32_t flags, const DLTensor *cu_seqlens_q, int32_t max_seqlen_q,
                                  fm_problem *problem) {
  const uint32_t known = FLASHMLA_CAUSAL | FLASHMLA_DEFAULT_SCALE | FLASHMLA_LSE_BASE2 | FLASHMLA_EMPTY_LSE_MINUS |
                         FLASHMLA_BATCH_INVARIANT;
  if ((flags & ~known) != 0)
    return fm_fail(FLASHMLA_ERROR_FLAGS, "params.flags is 0x%x; only bits of 0x%x are known", flags, known);
  if (cu_seqlens_q != NULL && max_seqlen_q <= 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.max_seqlen_q is %d; with cu_seqlens_q it must be > 0", max_seqlen_q);
  if (cu_seqlens_q == NULL && max_seqlen_q != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.max_seqlen_q is %d; without cu_seqlens_q it must be 0", max_seqlen_q);
  *problem = (fm_problem){.causal = (flags & FLASHMLA_CAUSAL) != 0,
                          .batch_invariant = (flags & FLASHMLA_BATCH_INVARIANT) != 0,
                          .varlen = cu_seqlens_q != NULL,
                          .s_q = max_seqlen_q,
                          .lse_base2 = (flags & FLASHMLA_LSE_BASE2) != 0,
                          .empty_lse = (flags & FLASHMLA_EMPTY_LSE_MINUS) != 0 ? -INFINITY : INFINITY};
  return FLASHMLA_OK;
}

/* Rules 2 to 6; fills what *problem says of shapes, dtypes and device. Without `out` among the tensors d_v is 0. */
static flashmla_status check_tensors(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count,
                                     fm_problem *problem) {
  int32_t extents[FM_EXTENTS] = {0};
  FM_TRY(fm_check_presence(arguments, tensors, count));
  FM_TRY(fm_check_dtypes(arguments, tensors, count));
  FM_TRY(fm_check_devices(arguments, tensors, count));
  FM_TRY(fm_check_extents(arguments, tensors, count, extents));
  if (problem->varlen && extents[FM_OFFSETS] - 1 != extents[FM_BATCH])
    return fm_fail(
        FLASHMLA_ERROR_SHAPE,
        "cu_seqlens_q.shape[0] is %d, block_table.shape[0] (batch) is %d; cu_seqlens_q.shape[0] must be batch + 1",
        extents[FM_OFFSETS], extents[FM_BATCH]);
  if (extents[FM_H_Q] % extents[FM_H_KV] != 0)
    return fm_fail(FLASHMLA_ERROR_SHAPE,
                   "q.shape[%d] (h_q) is %d, kv_cache.shape[2] (h_kv) is %d; h_q must be a multiple of h_kv",
                   arguments[Q].rank - 2, extents[FM_H_Q], extents[FM_H_KV]);
  problem->dtype = fm_float_of(tensors[Q]);
  problem->cuda = (int32_t)tensors[Q]->device.device_type == kDLCUDA;
  problem->device_id = tensors[Q]->device.device_id;
  problem->batch = extents[FM_BATCH];
  if (!problem->varlen) problem->s_q = extents[FM_S_Q];
  problem->total_q = extents[FM_TOTAL_Q];
  problem->h_q = extents[FM_H_Q];
  problem->h_kv = extents[FM_H_KV];
  problem->d_qk = extents[FM_D_QK];
  problem->d_v = extents[FM_D_V];
  problem->num_blocks = extents[FM_NUM_BLOCKS];
  problem->page_size = extents[FM_PAGE_SIZE];
  problem->max_blocks = extents[FM_MAX_BLOCKS];
  return FLASHMLA_OK;
}

/* Rule 7; sets d_v where the tensors do not say it. */
static flashmla_status check_support(const fm_argument *arguments, fm_problem *problem) {
  int32_t found = 0;
  while (found < GEOMETRIES && geometries[found].d_qk != problem->d_qk) ++found;
  if (found == GEOMETRIES)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.shape[%d] (d_qk) is %d; supported are 576, 512 and 320",
                   arguments[Q].rank - 1, problem->d_qk);
  const int32_t d_v = geometries[found].d_v, page_size = problem->page_size;
  if (problem->d_v == 0) problem->d_v = d_v;
  if (problem->d_v != d_v)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "out.shape[%d] (d_v) is %d; supported with d_qk %d is %d",
                   arguments[OUT].rank - 1, problem->d_v, problem->d_qk, d_v);
  if (problem->cuda && problem->dtype == FM_FP32)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.dtype is float32; supported on CUDA are bfloat16 and float16");
  if (problem->cuda && CUDA_KV_ROWS % page_size != 0 && page_size % CUDA_KV_ROWS != 0)
    return fm_fail(
        FLASHMLA_ERROR_UNSUPPORTED,
        "kv_cache.shape[1] (page_size) is %d; supported on CUDA are powers of two up to %d and multiples of %d",
        page_size, CUDA_KV_ROWS, CUDA_KV_ROWS);
  return FLASHMLA_OK;
}

static flashmla_status check_memory(const fm_argument *arguments, const DLTensor *const *tensors, fm_problem *problem) {
  fm_view views[DECODE_TENSORS] = {{NULL, {0}}};
  for (int32_t i = 0; i < DECODE_TENSORS; ++i)
    if (tensors[i] != NULL) FM_TRY(fm_view_tensor(&arguments[i], tensors[i], fm_is_empty(problem), &views[i]));
  problem->q = views[Q].data;
  fm_strides_from_batch(views[Q].stride, problem->varlen, problem->q_stride);
  problem->kv = views[KV_CACHE].data;
  memcpy(problem->kv_stride, views[KV_CACHE].stride, sizeof problem->kv_stride);
  problem->block_table = views[BLOCK_TABLE].data;
  problem->block_table_stride = views[BLOCK_TABLE].stride[0];
  problem->cache_seqlens = views[CACHE_SEQLENS].data;
  problem->cu_seqlens_q = views[CU_SEQLENS_Q].data;
  problem->out = views[OUT].data;
  problem->out_dtype = fm_float_of(tensors[OUT]);
  fm_strides_from_batch(views[OUT].stride, problem->varlen, problem->out_stride);
  problem->lse = views[LSE].data;
  fm_strides_from_batch(views[LSE].stride, problem->varlen, problem->lse_stride);
  problem->global_seqlens = views[GLOBAL_SEQLENS].data;
  return FLASHMLA_OK;
}

static flashmla_status check_scale(const flashmla_dense_decode_params *params, fm_problem *problem) {
  const bool is_default = (params->flags & FLASHMLA_DEFAULT_SCALE) != 0;
  if (!is_default && (!isfinite(params->softmax_scale) || params->softmax_scale <= 0.0f))
    return fm_fail(FLASHMLA_ERROR_VALUE,
                   "params.softmax_scale is %g; it must be finite and > 0, or set FLASHMLA_DEFAULT_SCALE",
                   (double)params->softmax_scale);
  problem->softmax_scale = is_default ? 1.0f / sqrtf((float)problem->d_qk) : params->softmax_scale;
  problem->scale_log2 = (float)fmin((double)problem->softmax_scale * M_LOG2E, (double)FLT_MAX);
  return FLASHMLA_OK;
}

static flashmla_status check_shard(const flashmla_dense_decode_params *params, fm_problem *problem) {
  const int32_t rank = params->cp_rank, world = params->cp_world, interleave = params->cp_interleave;
  if (world < 0) return fm_fail(FLASHMLA_ERROR_VALUE, "params.cp_world is %d; it must be >= 0", world);
  if (world == 0 && rank != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.cp_rank is %d; with cp_world 0 it must be 0", rank);
  if (world == 0 && interleave != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.cp_interleave is %d; with cp_world 0 it must be 0", interleave);
  if (world == 0 && params->global_seqlens != NULL)
    return fm_fail(FLASHMLA_ERROR_VALUE, "global_seqlens is given; with params.cp_world 0 it must be left out");
  if (world > 0 && (rank < 0 || rank >= world))
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.cp_rank is %d; it must be in [0, %d)", rank, world);
  if (world > 0 && interleave <= 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.cp_interleave is %d; with cp_world %d it must be > 0", interleave,
                   world);
  if (world > 0 && params->global_seqlens == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "global_seqlens is NULL; with params.cp_world %d it is required",
                   world);
  problem->cp_rank = rank;
  problem->cp_world = world;
  problem->cp_interleave = interleave;
  return FLASHMLA_OK;
}

flashmla_status fm_check_decode(const flashmla_dense_decode_params *params, bool sizes_only, fm_problem *problem) {
  FM_TRY(check_form(params->flags, params->cu_seqlens_q, params->max_seqlen_q, problem));
  const DLTensor *const tensors[DECODE_TENSORS] = {[Q] = params->q,
                                                   [KV_CACHE] = params->kv_cache,
                                                   [BLOCK_TABLE] = params->block_table,
                                                   [CACHE_SEQLENS] = params->cache_seqlens,
                                                   [CU_SEQLENS_Q] = params->cu_seqlens_q,
                                                   [OUT] = params->out,
                                                   [LSE] = params->lse,
                                                   [GLOBAL_SEQLENS] = params->global_seqlens};
  fm_argument arguments[DECODE_TENSORS];
  list_arguments(problem->varlen, arguments);
  FM_TRY(check_tensors(arguments, tensors, DECODE_TENSORS, problem));
  FM_TRY(check_support(arguments, problem));
  if (sizes_only) return FLASHMLA_OK;
  FM_TRY(check_memory(arguments, tensors, problem));
  FM_TRY(check_scale(params, problem));
  FM_TRY(check_shard(params, problem));
  if (params->num_threads < 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.num_threads is %d; it must be >= 0", params->num_threads);
  problem->num_threads = params->num_threads;
  problem->stream = params->stream;
  return FLASHMLA_OK;
}

/* The scalars that a plan has of its own. */
static flashmla_status check_plan_scalars(const flashmla_plan_decode_params *params) {
  if (params->reserved != 0 || params->reserved2 != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.reserved is %u and reserved2 %u; they must be 0", params->reserved,
                   params->reserved2);
  if (params->num_splits < 0 || params->num_splits > FM_MAX_SPLITS)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.num_splits is %d; it must be in [0, %d]", params->num_splits,
                   FM_MAX_SPLITS);
  if (params->num_splits != 0 && (params->flags & FLASHMLA_BATCH_INVARIANT) != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.num_splits is %d; with FLASHMLA_BATCH_INVARIANT it must be 0",
                   params->num_splits);
  return FLASHMLA_OK;
}

flashmla_status fm_check_plan(const flashmla_plan_decode_params *params, bool sizes_only, fm_problem *problem) {
  FM_TRY(check_form(params->flags, params->cu_seqlens_q, params->max_seqlen_q, problem));
  FM_TRY(check_plan_scalars(params));
  const DLTensor *const tensors[PLAN_TENSORS] = {[Q] = params->q,
                                                 [KV_CACHE] = params->kv_cache,
                                                 [BLOCK_TABLE] = params->block_table,
                                                 [CACHE_SEQLENS] = params->cache_seqlens,
                                                 [CU_SEQLENS_Q] = params->cu_seqlens_q};
  fm_argument arguments[DECODE_TENSORS];
  list_arguments(problem->varlen, arguments);
  FM_TRY(check_tensors(arguments, tensors, PLAN_TENSORS, problem));
  FM_TRY(check_support(arguments, problem));
  if (sizes_only) return FLASHMLA_OK;
  fm_view lengths, offsets = {NULL, {0}};
  const bool empty = fm_is_empty(problem);
  FM_TRY(fm_view_tensor(&arguments[CACHE_SEQLENS], tensors[CACHE_SEQLENS], empty, &lengths));
  if (problem->varlen) FM_TRY(fm_view_tensor(&arguments[CU_SEQLENS_Q], tensors[CU_SEQLENS_Q], empty, &offsets));
  problem->cache_seqlens = lengths.data;
  problem->cu_seqlens_q = offsets.data;
  problem->stream = params->stream;
  return FLASHMLA_OK;
}
