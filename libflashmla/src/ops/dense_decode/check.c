/* check.c - the rules on a decode step that its table does not say: those of dense decode and of its plan. */
#include "attention/cpu_run.h"
#include "attention/keys.h"
#include "attention/tuned.h"
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
    [FM_TOKEN] = {"row", false},
    [FM_Q_LATENT_COLUMNS] = {"d_v", false}, /* fm_check_geometry compares it with that of out */
    [FM_Q_ROPE_COLUMNS] = {"d_rope", false},
};

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

static flashmla_status check_cuda_support(const fm_call *call, const fm_queries *queries) {
  if (queries->dtype == FM_FP32)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.dtype is %s; supported on CUDA are bfloat16 and float16",
                   fm_dtype_name((int32_t)fm_dtype_of(fm_tensor_at(&call->tensors, FM_Q, 0)->dtype)));
  return FLASHMLA_OK;
}

flashmla_status fm_read_step(const DLTensor *cu_seqlens_q, const DLTensor *q_rope, fm_step_scalars scalars,
                             fm_form *form) {
  FM_TRY(fm_check_queries(cu_seqlens_q, q_rope, scalars.max_seqlen_q, form));
  if (scalars.window < 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}window is %d; it must be >= 0", scalars.window);
  return fm_add_format("kv_format", scalars.kv_format, FM_MAIN_PAGES, form);
}

flashmla_status fm_check_step(const fm_call *call, fm_step_scalars scalars, fm_dense_decode *decode) {
  const int32_t *extents = call->extents;
  const int64_t capacity = (int64_t)extents[FM_MAX_BLOCKS] * extents[FM_PAGE_SIZE];
  fm_attention *attention = &decode->attention;
  FM_TRY(check_extents(call));
  attention->work = fm_work_of(call, extents[FM_BATCH], scalars.flags, scalars.max_seqlen_q);
  attention->work.h_kv = extents[FM_H_KV];
  attention->work.capacity = (int32_t)fm_min64(capacity, INT32_MAX);
  attention->work.window = attention->mask.window = scalars.window;
  attention->mask.causal = (scalars.flags & FLASHMLA_CAUSAL) != 0;
  decode->paged = (fm_paged){.kv_format = scalars.kv_format, .max_blocks = extents[FM_MAX_BLOCKS]};
  FM_TRY(fm_check_geometry(call, FM_Q, FM_Q_ROPE, extents[FM_D_V], 0, attention));
  FM_TRY(fm_check_pages(call, FM_KV_CACHE, scalars.kv_format, true, &decode->paged.pages));
  FM_TRY(fm_check_keys(call, FM_Q, FM_KV_CACHE, &attention->queries, &decode->paged.pages));
  return call->cuda ? check_cuda_support(call, &attention->queries) : FLASHMLA_OK;
}

void fm_bind_lengths(const fm_call *call, fm_dense_decode *decode) {
  decode->attention.work.lengths = call->views[FM_CACHE_SEQLENS].data;
  decode->attention.work.cu_seqlens_q = call->views[FM_CU_SEQLENS_Q].data;
}

void fm_look_up_step(const fm_call *call, fm_dense_decode *decode) {
  const fm_paged *paged = &decode->paged;
  const fm_tuned_call facts = {
      .operation = "dense_decode", .q = FM_Q, .page_size = paged->pages.page_size, .kv_format = paged->kv_format};
  /* tuning files are measured with exact products */
  if (!fm_multiplies_codes(call, decode)) fm_look_up_tuned(call, &facts, &decode->attention);
}

flashmla_status fm_tile_step(const fm_call *call, fm_dense_decode *decode) {
  fm_limits limits;
  if (call->cuda)
    FM_TRY(fm_dense_decode_cuda_limits(call, decode, &limits));
  else
    fm_cpu_limits(&decode->attention.work, &limits);
  return fm_tile(&decode->attention.work, limits, decode->attention.d_v, &decode->attention.tiling);
}

enum { FACTS = 12 }; /* in the order of fm_decode_plan */
static const fm_plan_kind kind = {
    .name = "dense_decode",
    .maker = "plan_decode",
    .operation = 1,
    .num_facts = FACTS,
    .facts = {{"dtype", "q.dtype", "q.dtype", .dtype = true},
              {"{FLASHMLA_CAUSAL|causal}", .option = true},
              {"batch", "q.shape[0]", "block_table.shape[0]", .dtype = false},
              {"total_q", "q.shape[0]", "q.shape[0]", .dtype = false},
              {"s_q", "q.shape[1]", "{params.|}max_seqlen_q (at most total_q)", .dtype = false},
              {"h_q", "q.shape[2]", "q.shape[1]", .dtype = false},
              {"d_qk", "q.shape[3]", "q.shape[2]", .parted_argument = "q.shape[-1] + q_rope.shape[-1]"},
              {"page_size", "kv_cache.shape[1]", "kv_cache.shape[1]", .dtype = false}, /* before what follows from it */
              {"num_blocks", "kv_cache.shape[0]", "kv_cache.shape[0]", .dtype = false},
              {"h_kv", "kv_cache.shape[2]", "kv_cache.shape[2]", .dtype = false},
              {"max_blocks", "block_table.shape[1]", "block_table.shape[1]", .dtype = false},
              {"window", "{params.|}window", "{params.|}window", .dtype = false}}};

fm_given_plan fm_decode_plan(const fm_dense_decode *decode, const flashmla_plan *plan) {
  const fm_work *work = &decode->attention.work;
  const fm_paged *paged = &decode->paged;
  const fm_queries *queries = &decode->attention.queries;
  return (fm_given_plan){.kind = &kind,
                         .plan = plan,
                         .facts = {(int32_t)queries->dtype, decode->attention.mask.causal, work->batch, work->total_q,
                                   work->s_q, work->h_q, queries->d_qk, paged->pages.page_size, paged->pages.num_blocks,
                                   work->h_kv, paged->max_blocks, decode->attention.mask.window}};
}
