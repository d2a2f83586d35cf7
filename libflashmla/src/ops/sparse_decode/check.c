/* check.c - the rules on a step of sparse decode that its table does not say: those of sparse_decode and of its plan.
 */
#include "attention/cpu_run.h"
#include "attention/tuned.h"
#include "ops/sparse_decode/sparse_decode.h"

const fm_axis fm_sparse_axes[FM_SPARSE_AXES] = {
    FM_SHARED_AXES,
    FM_PAGES_AXES,
    [FM_TOPK] = {"topk", true},
    [FM_EXTRA_TOPK] = {"extra_topk", true},
    [FM_SPARSE_D_QK] = {"d_qk", false},
    [FM_SPARSE_OFFSETS] = {"batch + 1", false},
    [FM_EXTRA_BLOCKS] = {"extra_num_blocks", false},
    [FM_EXTRA_SIZE] = {"extra_page_size", false},
    [FM_EXTRA_ROW] = {"extra_row", false},
    [FM_SPARSE_D_V] = {"d_v", false},
    [FM_SPARSE_Q_LATENT_COLUMNS] = {"d_v", false}, /* fm_check_geometry compares it with that of out */
    [FM_SPARSE_Q_ROPE_COLUMNS] = {"d_rope", false},
};

/* With variable-length queries no tensor but optional ones has the axis. */
static flashmla_status check_batch(const fm_call *call, int32_t *batch) {
  *batch = call->extents[FM_BATCH];
  if (!call->form.varlen) return FLASHMLA_OK;
  const int32_t offsets = call->extents[FM_SPARSE_OFFSETS];
  for (int32_t row = FM_TOPK_LENGTH; row <= FM_EXTRA_TOPK_LENGTH; row += FM_EXTRA_TOPK_LENGTH - FM_TOPK_LENGTH)
    if (call->tensors.given[row] != NULL && offsets - 1 != *batch)
      return fm_fail(FLASHMLA_ERROR_SHAPE,
                     "cu_seqlens_q.shape[0] is %d, %s.shape[0] (batch) is %d; cu_seqlens_q.shape[0] must be batch + 1",
                     offsets, call->tensors.rows[row].name, *batch);
  *batch = offsets - 1;
  return FLASHMLA_OK;
}

/* Items are numbered in 32 bits, each selection from the begin of a unit on. */
static flashmla_status set_items(const fm_call *call, fm_work *work) {
  const int32_t topk = call->extents[FM_TOPK], extra_topk = call->extents[FM_EXTRA_TOPK];
  if ((int64_t)topk + extra_topk > INT32_MAX - FM_KERNEL_UNIT)
    return fm_fail(FLASHMLA_ERROR_OVERFLOW,
                   "indices has topk %d and extra_indices extra_topk %d; together they must be at most %d", topk,
                   extra_topk, INT32_MAX - FM_KERNEL_UNIT);
  work->own_items = true;
  work->capacity = topk;
  work->extra_capacity = extra_topk;
  work->full = call->tensors.given[FM_TOPK_LENGTH] == NULL && call->tensors.given[FM_EXTRA_TOPK_LENGTH] == NULL;
  return FLASHMLA_OK;
}

flashmla_status fm_check_sparse_step(const fm_call *call, uint32_t flags, int32_t max_seqlen_q,
                                     fm_sparse_decode *decode) {
  fm_attention *attention = &decode->attention;
  int32_t batch;
  FM_TRY(check_batch(call, &batch));
  attention->work = fm_work_of(call, batch, flags, max_seqlen_q);
  if (attention->work.h_q > FM_SPARSE_MOST_HEADS)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.shape[%d] (h_q) is %d; supported are at most %d",
                   call->tensors.rows[FM_SPARSE_Q].rank - 2, attention->work.h_q, FM_SPARSE_MOST_HEADS);
  FM_TRY(fm_check_geometry(call, FM_SPARSE_Q, FM_SPARSE_Q_ROPE, call->extents[FM_SPARSE_D_V], FM_KERNEL_MOST_D_V,
                           attention));
  return set_items(call, &attention->work);
}

flashmla_status fm_check_sparse_step_on_cuda(const fm_sparse_decode *decode) {
  const fm_queries *queries = &decode->attention.queries;
  if (queries->dtype != FM_BF16)
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "q.dtype is %s; supported on CUDA is bfloat16",
                   fm_dtype_name((int32_t)queries->dtype));
  return FLASHMLA_OK;
}

void fm_bind_sparse_lengths(const fm_call *call, fm_sparse_decode *decode) {
  fm_work *work = &decode->attention.work;
  work->lengths = call->views[FM_TOPK_LENGTH].data;
  work->extra_lengths = call->views[FM_EXTRA_TOPK_LENGTH].data;
  work->cu_seqlens_q = call->views[FM_SPARSE_CU_SEQLENS_Q].data;
}

flashmla_status fm_lay_out_sparse_step(fm_call *call, int32_t kv_format, fm_sparse_decode *decode, fm_hook *lay_out) {
  const fm_tuned_call facts = {.operation = "sparse_decode", .q = FM_SPARSE_Q, .kv_format = kv_format};
  fm_attention *attention = &decode->attention;
  const int32_t num_splits = attention->work.num_splits;
  uint64_t bytes_of_few = 0;
  fm_look_up_tuned(call, &facts, attention);
  if (call->sizes_only) {
    decode->as_few = true;
    FM_TRY(fm_lay_out_tuned(call, decode, attention, lay_out));
    bytes_of_few = call->scratch_bytes;
    decode->as_few = false;
    attention->work.num_splits = num_splits;
  }
  FM_TRY(fm_lay_out_tuned(call, decode, attention, lay_out));
  if (call->scratch_bytes < bytes_of_few) call->scratch_bytes = bytes_of_few;
  return FLASHMLA_OK;
}

flashmla_status fm_tile_sparse_step(const fm_call *call, fm_sparse_decode *decode) {
  fm_attention *attention = &decode->attention;
  fm_limits limits;
  if (call->cuda)
    FM_TRY(fm_sparse_decode_cuda_limits(call, decode, &limits));
  else
    fm_cpu_limits(&attention->work, &limits);
  return fm_tile(&attention->work, limits, attention->d_v, &attention->tiling);
}

enum { FACTS = 8 }; /* in the order of fm_sparse_plan */
static const fm_plan_kind kind = {
    .name = "sparse_decode",
    .maker = "plan_sparse_decode",
    .operation = 2,
    .num_facts = FACTS,
    .facts = {{"dtype", "q.dtype", "q.dtype", .dtype = true},
              {"batch", "q.shape[0]", "cu_seqlens_q.shape[0] - 1", .dtype = false},
              {"total_q", "q.shape[0]", "q.shape[0]", .dtype = false},
              {"s_q", "q.shape[1]", "{params.|}max_seqlen_q (at most total_q)", .dtype = false},
              {"h_q", "q.shape[2]", "q.shape[1]", .dtype = false},
              {"d_qk", "q.shape[3]", "q.shape[2]", .parted_argument = "q.shape[-1] + q_rope.shape[-1]"},
              {"topk", "indices.shape[2]", "indices.shape[1]", .dtype = false},
              {"extra_topk", "extra_indices.shape[2] (0 without it)", "extra_indices.shape[1] (0 without it)",
               .dtype = false}}};

fm_given_plan fm_sparse_plan(const fm_sparse_decode *decode, const flashmla_plan *plan) {
  const fm_work *work = &decode->attention.work;
  const fm_queries *queries = &decode->attention.queries;
  return (fm_given_plan){.kind = &kind,
                         .plan = plan,
                         .facts = {(int32_t)queries->dtype, work->batch, work->total_q, work->s_q, work->h_q,
                                   queries->d_qk, work->capacity, work->extra_capacity}};
}
