/* check.c - the rules on a decode step that its table does not say: those of dense decode and of its plan. */
#include <string.h>

#include "ops/dense_decode/dense_decode.h"

const fm_axis fm_decode_axes[FM_DECODE_AXES] = {
    FM_SHARED_AXES,
    [FM_D_QK] = {"d_qk", false},
    [FM_NUM_BLOCKS] = {"num_blocks", false},
    [FM_PAGE_SIZE] = {"page_size", false},
    [FM_H_KV] = {"h_kv", false},
    [FM_MAX_BLOCKS] = {"max_blocks", true},
    [FM_D_V] = {"d_v", false},
    [FM_OFFSETS] = {"batch + 1", false},
};

/* Latent dimensions, which are the value, with and without RoPE dimensions behind them. */
static const struct {
  int32_t d_qk, d_v;
} geometries[] = FM_KERNEL_GEOMETRIES;
enum { GEOMETRIES = sizeof geometries / sizeof geometries[0] };

flashmla_status fm_check_queries(const DLTensor *cu_seqlens_q, int32_t max_seqlen_q, fm_form *form) {
  form->varlen = cu_seqlens_q != NULL;
  if (form->varlen && max_seqlen_q <= 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}max_seqlen_q is %d; with cu_seqlens_q it must be > 0",
                   max_seqlen_q);
  if (!form->varlen && max_seqlen_q != 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}max_seqlen_q is %d; without cu_seqlens_q it must be 0",
                   max_seqlen_q);
  return FLASHMLA_OK;
}

static flashmla_status check_extents(const fm_call *call) {
  const int32_t *extents = call->extents;
  if (call->form.varlen && extents[FM_OFFSETS] - 1 != extents[FM_BATCH])
    return fm_fail(
        FLASHMLA_ERROR_SHAPE,
        "cu_seqlens_q.shape[0] is %d, block_table.shape[0] (batch) is %d; cu_seqlens_q.shape[0] must be batch + 1",
        extents[FM_OFFSETS], extents[FM_BATCH]);
  if (extents[FM_H_Q] % extents[FM_H_KV] != 0)
    return fm_fail(FLASHMLA_ERROR_SHAPE,
                   "q.shape[%d] (h_q) is %d, kv_cache.shape[2] (h_kv) is %d; h_q must be a multiple of h_kv",
                   call->tensors.rows[FM_Q].rank - 2, extents[FM_H_Q], extents[FM_H_KV]);
  return FLASHMLA_OK;
}

/* "576, 512 and 320" */
static fm_text supported_d_qk(void) {
  fm_text text = {""};
  for (int32_t i = 0; i < GEOMETRIES; ++i)
    fm_append(&text, "%s%d", i == 0 ? "" : i == GEOMETRIES - 1 ? " and " : ", ", geometries[i].d_qk);
  return text;
}

/* Sets d_v; `given`: that of `out`, or 0 where there is none. */
static flashmla_status check_geometry(const fm_call *call, int32_t given, int32_t *d_v) {
  const int32_t d_qk = call->extents[FM_D_QK], inner = call->tensors.rows[FM_Q].rank - 1;
  int32_t found = 0;
  while (found < GEOMETRIES && geometries[found].d_qk != d_qk) ++found;
  if (found == GEOMETRIES)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.shape[%d] (d_qk) is %d; supported are %s", inner, d_qk,
                   supported_d_qk().chars);
  *d_v = geometries[found].d_v;
  if (given != 0 && given != *d_v)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "out.shape[%d] (d_v) is %d; supported with d_qk %d is %d", inner, given,
                   d_qk, *d_v);
  return FLASHMLA_OK;
}

static flashmla_status check_cuda_support(const fm_paged *paged) {
  if (paged->q_dtype == FM_FP32)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.dtype is float32; supported on CUDA are bfloat16 and float16");
  return FLASHMLA_OK;
}

flashmla_status fm_check_step(const fm_call *call, uint32_t flags, int32_t max_seqlen_q, fm_dense_decode *decode) {
  const int32_t *extents = call->extents;
  const int64_t capacity = (int64_t)extents[FM_MAX_BLOCKS] * extents[FM_PAGE_SIZE];
  FM_TRY(check_extents(call));
  /* No request has more tokens than all have, and tiles are made for as many as one may have. */
  const int32_t most_tokens = fm_min32(max_seqlen_q, extents[FM_TOTAL_Q]);
  decode->attention.work = (fm_work){.batch = extents[FM_BATCH],
                                     .s_q = call->form.varlen ? most_tokens : extents[FM_S_Q],
                                     .h_q = extents[FM_H_Q],
                                     .h_kv = extents[FM_H_KV],
                                     .varlen = call->form.varlen,
                                     .total_q = extents[FM_TOTAL_Q],
                                     .capacity = (int32_t)fm_min64(capacity, INT32_MAX),
                                     .batch_invariant = (flags & FLASHMLA_BATCH_INVARIANT) != 0};
  decode->attention.mask.causal = (flags & FLASHMLA_CAUSAL) != 0;
  decode->paged = (fm_paged){.q_dtype = fm_dtype_of(fm_tensor_at(&call->tensors, FM_Q, 0)->dtype),
                             .cache_dtype = fm_dtype_of(fm_tensor_at(&call->tensors, FM_KV_CACHE, 0)->dtype),
                             .d_qk = extents[FM_D_QK],
                             .num_blocks = extents[FM_NUM_BLOCKS],
                             .page_size = extents[FM_PAGE_SIZE],
                             .max_blocks = extents[FM_MAX_BLOCKS]};
  FM_TRY(check_geometry(call, extents[FM_D_V], &decode->attention.d_v));
  return call->cuda ? check_cuda_support(&decode->paged) : FLASHMLA_OK;
}

void fm_bind_lengths(const fm_call *call, fm_dense_decode *decode) {
  decode->attention.work.lengths = call->views[FM_CACHE_SEQLENS].data;
  decode->attention.work.cu_seqlens_q = call->views[FM_CU_SEQLENS_Q].data;
}

flashmla_status fm_tile_step(const fm_call *call, fm_dense_decode *decode) {
  fm_limits limits;
  if (call->cuda)
    FM_TRY(fm_dense_decode_cuda_limits(call, decode, &limits));
  else
    fm_dense_decode_cpu_limits(decode, &limits);
  return fm_tile(&decode->attention.work, limits, decode->attention.d_v, &decode->attention.tiling);
}

enum { FACTS = 11 }; /* in the order of fm_decode_plan_facts */
const fm_plan_kind fm_decode_plan = {
    .name = "dense decode",
    .operation = 1,
    .num_facts = FACTS,
    .facts = {{"dtype", "q.dtype", "q.dtype", .dtype = true},
              {"causal", "{the call's FLASHMLA_CAUSAL|causal}", "{the call's FLASHMLA_CAUSAL|causal}", false},
              {"batch", "q.shape[0]", "block_table.shape[0]", false},
              {"total_q", "q.shape[0]", "q.shape[0]", false},
              {"s_q", "q.shape[1]", "{params.|}max_seqlen_q (at most total_q)", false},
              {"h_q", "q.shape[2]", "q.shape[1]", false},
              {"d_qk", "q.shape[3]", "q.shape[2]", false},
              {"num_blocks", "kv_cache.shape[0]", "kv_cache.shape[0]", false},
              {"page_size", "kv_cache.shape[1]", "kv_cache.shape[1]", false},
              {"h_kv", "kv_cache.shape[2]", "kv_cache.shape[2]", false},
              {"max_blocks", "block_table.shape[1]", "block_table.shape[1]", false}}};

void fm_decode_plan_facts(const fm_dense_decode *decode, int32_t facts[FM_PLAN_FACTS]) {
  const fm_work *work = &decode->attention.work;
  const fm_paged *paged = &decode->paged;
  const int32_t values[FACTS] = {(int32_t)paged->q_dtype,
                                 decode->attention.mask.causal,
                                 work->batch,
                                 work->total_q,
                                 work->s_q,
                                 work->h_q,
                                 paged->d_qk,
                                 paged->num_blocks,
                                 paged->page_size,
                                 work->h_kv,
                                 paged->max_blocks};
  memcpy(facts, values, sizeof values);
}
