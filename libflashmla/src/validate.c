/* validate.c - every rule on the arguments of dense decode and of its plan. The first rule broken is reported; the
 * order is
 *   1. the params struct: NULL and struct_size (params.c), flags, reserved fields, scalars that the sizes depend on
 *   2. tensors present, ranks     3. dtypes     4. devices     5. extents: range, then equal where they share a name
 *   6. head counts                7. what the library supports (2xx)
 *   8. tensor by tensor: strides, overlap, address     9. the other scalars
 * The size queries stop after 7. A plan looks at the memory of cache_seqlens alone. Workspace and plan buffers follow
 * in api.c, which knows their size. The same rules hold on both backends, except where CUDA is named. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "tensor.h"
#include "try.h"

enum { Q, KV_CACHE, BLOCK_TABLE, CACHE_SEQLENS, PLAN_TENSORS, OUT = PLAN_TENSORS, LSE, DECODE_TENSORS };

static const fm_argument arguments[DECODE_TENSORS] = {
    [Q] = {.name = "q", .rank = 4, .axes = {FM_BATCH, FM_S_Q, FM_H_Q, FM_D_QK}, .alignment = 16},
    [KV_CACHE] = {.name = "kv_cache",
                  .rank = 4,
                  .axes = {FM_NUM_BLOCKS, FM_PAGE_SIZE, FM_H_KV, FM_D_QK},
                  .alignment = 16},
    [BLOCK_TABLE] =
        {.name = "block_table", .rank = 2, .axes = {FM_BATCH, FM_MAX_BLOCKS}, .element = FM_INT32, .alignment = 4},
    [CACHE_SEQLENS] = {.name = "cache_seqlens", .rank = 1, .axes = {FM_BATCH}, .element = FM_INT32, .alignment = 4},
    [OUT] = {.name = "out", .rank = 4, .axes = {FM_BATCH, FM_S_Q, FM_H_Q, FM_D_V}, .alignment = 16, .written = true},
    [LSE] = {.name = "lse",
             .rank = 3,
             .axes = {FM_BATCH, FM_H_Q, FM_S_Q},
             .element = FM_FLOAT32,
             .alignment = 4,
             .free_innermost = true,
             .written = true,
             .optional = true},
};

enum {
  SUPPORTED_D_QK = 576, /* 512 latent + 64 RoPE dimensions */
  SUPPORTED_D_V = 512,
  CUDA_PAGE_SIZE = 64,
  MAX_SPLITS = 1024,
};

static flashmla_status check_flags(uint32_t flags) {
  const uint32_t known = FLASHMLA_CAUSAL | FLASHMLA_DEFAULT_SCALE;
  if ((flags & ~known) != 0)
    return fm_fail(FLASHMLA_ERROR_FLAGS, "params.flags is 0x%x; only bits of 0x%x are known", flags, known);
  return FLASHMLA_OK;
}

/* Rules 2 to 6; fills what *problem says of shapes and device. Without `out` among the tensors d_v is the supported
 * one. */
static flashmla_status check_tensors(const DLTensor *const *tensors, int32_t count, fm_problem *problem) {
  int32_t extents[FM_EXTENTS] = {[FM_D_V] = SUPPORTED_D_V};
  FM_TRY(fm_check_presence(arguments, tensors, count));
  FM_TRY(fm_check_dtypes(arguments, tensors, count, &problem->dtype));
  FM_TRY(fm_check_devices(arguments, tensors, count));
  FM_TRY(fm_check_extents(arguments, tensors, count, extents));
  if (extents[FM_H_Q] % extents[FM_H_KV] != 0)
    return fm_fail(FLASHMLA_ERROR_SHAPE,
                   "q.shape[2] (h_q) is %d, kv_cache.shape[2] (h_kv) is %d; h_q must be a multiple of h_kv",
                   extents[FM_H_Q], extents[FM_H_KV]);
  problem->cuda = (int32_t)tensors[Q]->device.device_type == kDLCUDA;
  problem->device_id = tensors[Q]->device.device_id;
  problem->batch = extents[FM_BATCH];
  problem->s_q = extents[FM_S_Q];
  problem->h_q = extents[FM_H_Q];
  problem->h_kv = extents[FM_H_KV];
  problem->d_qk = extents[FM_D_QK];
  problem->d_v = extents[FM_D_V];
  problem->num_blocks = extents[FM_NUM_BLOCKS];
  problem->page_size = extents[FM_PAGE_SIZE];
  problem->max_blocks = extents[FM_MAX_BLOCKS];
  return FLASHMLA_OK;
}

static flashmla_status check_support(const fm_problem *problem) {
  if (problem->d_qk != SUPPORTED_D_QK)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.shape[3] (d_qk) is %d; supported is %d", problem->d_qk,
                   SUPPORTED_D_QK);
  if (problem->d_v != SUPPORTED_D_V)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "out.shape[3] (d_v) is %d; supported is %d", problem->d_v,
                   SUPPORTED_D_V);
  if (problem->cuda && problem->dtype == FM_FP32)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.dtype is float32; supported on CUDA are bfloat16 and float16");
  if (problem->cuda && problem->page_size != CUDA_PAGE_SIZE)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "kv_cache.shape[1] (page_size) is %d; supported on CUDA is %d",
                   problem->page_size, CUDA_PAGE_SIZE);
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

static flashmla_status check_memory(const DLTensor *const *tensors, fm_problem *problem) {
  const bool empty = problem->batch == 0 || problem->s_q == 0;
  fm_view views[DECODE_TENSORS] = {{NULL, {0}}};
  for (int32_t i = 0; i < DECODE_TENSORS; ++i)
    if (tensors[i] != NULL) FM_TRY(fm_view_tensor(&arguments[i], tensors[i], empty, &views[i]));
  problem->q = views[Q].data;
  memcpy(problem->q_stride, views[Q].stride, sizeof problem->q_stride);
  problem->kv = views[KV_CACHE].data;
  memcpy(problem->kv_stride, views[KV_CACHE].stride, sizeof problem->kv_stride);
  problem->block_table = views[BLOCK_TABLE].data;
  problem->block_table_stride = views[BLOCK_TABLE].stride[0];
  problem->cache_seqlens = views[CACHE_SEQLENS].data;
  problem->out = views[OUT].data;
  memcpy(problem->out_stride, views[OUT].stride, sizeof problem->out_stride);
  problem->lse = views[LSE].data;
  memcpy(problem->lse_stride, views[LSE].stride, sizeof problem->lse_stride);
  return FLASHMLA_OK;
}

flashmla_status fm_check_decode(const flashmla_dense_decode_params *params, bool sizes_only, fm_problem *problem) {
  FM_TRY(check_flags(params->flags));
  const DLTensor *const tensors[DECODE_TENSORS] = {[Q] = params->q,
                                                   [KV_CACHE] = params->kv_cache,
                                                   [BLOCK_TABLE] = params->block_table,
                                                   [CACHE_SEQLENS] = params->cache_seqlens,
                                                   [OUT] = params->out,
                                                   [LSE] = params->lse};
  *problem = (fm_problem){.causal = (params->flags & FLASHMLA_CAUSAL) != 0, .stream = params->stream};
  FM_TRY(check_tensors(tensors, DECODE_TENSORS, problem));
  FM_TRY(check_support(problem));
  if (sizes_only) return FLASHMLA_OK;
  FM_TRY(check_memory(tensors, problem));
  FM_TRY(check_scale(params, problem));
  if (params->num_threads < 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.num_threads is %d; it must be >= 0", params->num_threads);
  problem->num_threads = params->num_threads;
  return FLASHMLA_OK;
}

flashmla_status fm_check_plan(const flashmla_plan_decode_params *params, bool sizes_only, fm_problem *problem) {
  FM_TRY(check_flags(params->flags));
  if (params->reserved != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.reserved is %u; it must be 0", params->reserved);
  if (params->num_splits < 0 || params->num_splits > MAX_SPLITS)
    return fm_fail(FLASHMLA_ERROR_VALUE, "params.num_splits is %d; it must be in [0, %d]", params->num_splits,
                   MAX_SPLITS);
  const DLTensor *const tensors[PLAN_TENSORS] = {[Q] = params->q,
                                                 [KV_CACHE] = params->kv_cache,
                                                 [BLOCK_TABLE] = params->block_table,
                                                 [CACHE_SEQLENS] = params->cache_seqlens};
  *problem = (fm_problem){.causal = (params->flags & FLASHMLA_CAUSAL) != 0, .stream = params->stream};
  FM_TRY(check_tensors(tensors, PLAN_TENSORS, problem));
  FM_TRY(check_support(problem));
  if (sizes_only) return FLASHMLA_OK;
  fm_view lengths;
  FM_TRY(fm_view_tensor(&arguments[CACHE_SEQLENS], tensors[CACHE_SEQLENS], problem->batch == 0 || problem->s_q == 0,
                        &lengths));
  problem->cache_seqlens = lengths.data;
  return FLASHMLA_OK;
}
