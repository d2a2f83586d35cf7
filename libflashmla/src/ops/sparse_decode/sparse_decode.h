/* sparse_decode.h - a checked call of sparse_decode, which plan_sparse_decode shares: a plan is made for the query
 * tokens and the selections of such a call, so both have these rows, rules and state. */
#ifndef FLASHMLA_OPS_SPARSE_DECODE_H_
#define FLASHMLA_OPS_SPARSE_DECODE_H_

#include "attention/check.h"
#include "attention/cuda_findings.h"
#include "attention/kernels.h"
#include "attention/plan.h"
#include "formats/pages.h"

enum {
  FM_SPARSE_MOST_HEADS = 128 /* h_q */
};

/* Axes and rows of the tables of both operations; plan_sparse_decode has the first rows. */
enum {
  FM_TOPK = FM_ROWS_AXES,
  FM_EXTRA_TOPK,
  FM_SPARSE_D_QK,
  FM_SPARSE_OFFSETS,
  FM_EXTRA_BLOCKS,
  FM_EXTRA_SIZE,
  FM_EXTRA_ROW,
  FM_SPARSE_D_V,
  FM_SPARSE_Q_LATENT_COLUMNS,
  FM_SPARSE_Q_ROPE_COLUMNS,
  FM_SPARSE_AXES
};
extern const fm_axis fm_sparse_axes[FM_SPARSE_AXES];
enum {
  FM_SPARSE_Q,
  FM_INDICES,
  FM_TOPK_LENGTH,
  FM_EXTRA_INDICES,
  FM_EXTRA_TOPK_LENGTH,
  FM_SPARSE_CU_SEQLENS_Q,
  FM_SPARSE_Q_ROPE,
  FM_SPARSE_STEP_ROWS
};
/* A plan takes the flags of its calls, though it looks at few of them. */
enum {
  FM_SPARSE_FLAGS = FLASHMLA_DEFAULT_SCALE | FLASHMLA_LSE_BASE2 | FLASHMLA_EMPTY_LSE_MINUS | FLASHMLA_BATCH_INVARIANT
};
/* The rows of the tensors that a plan and its calls share, in a params struct `type`. `shapes`: a plan looks at the
 * memory of lengths and offsets alone. */
#define FM_INDICES_FIELDS(type, field, count, shapes)                                                    \
  FM_FIELD(type, field), .rank = 3, .axes = {FM_BATCH, FM_S_Q, count},                                   \
      .dtypes = FM_ONLY(FM_INT32) | FM_ONLY(FM_INT64), .alignment = sizeof(int32_t), .of_queries = true, \
      .shape_only = shapes
#define FM_LENGTHS_FIELDS(type, field, axis)                                                                   \
  FM_FIELD(type, field), .rank = 1, .axes = {axis}, .dtypes = FM_ONLY(FM_INT32), .alignment = sizeof(int32_t), \
      .optional = true
#define FM_SPARSE_STEP_ARGUMENTS(type, shapes)                                                            \
  [FM_SPARSE_Q] = {FM_FIELD(type, q),                                                                     \
                   .rank = 4,                                                                             \
                   .axes = {FM_BATCH, FM_S_Q, FM_H_Q, FM_SPARSE_D_QK},                                    \
                   .dtypes = FM_ANY_FLOAT,                                                                \
                   .alignment = FM_VECTOR_BYTES,                                                          \
                   .mapped = true,                                                                        \
                   .of_queries = true,                                                                    \
                   .parted_axis = FM_SPARSE_Q_LATENT_COLUMNS,                                             \
                   .shape_only = shapes},                                                                 \
  [FM_INDICES] = {FM_INDICES_FIELDS(type, indices, FM_TOPK, shapes)},                                     \
  [FM_TOPK_LENGTH] = {FM_LENGTHS_FIELDS(type, topk_length, FM_BATCH)},                                    \
  [FM_EXTRA_INDICES] = {FM_INDICES_FIELDS(type, extra_indices, FM_EXTRA_TOPK, shapes), .optional = true}, \
  [FM_EXTRA_TOPK_LENGTH] = {FM_LENGTHS_FIELDS(type, extra_topk_length, FM_BATCH)},                        \
  [FM_SPARSE_CU_SEQLENS_Q] = {FM_LENGTHS_FIELDS(type, cu_seqlens_q, FM_SPARSE_OFFSETS), .offsets = true}, \
  [FM_SPARSE_Q_ROPE] = {FM_Q_ROPE_FIELDS(type, q_rope, FM_SPARSE_Q, FM_SPARSE_Q_ROPE_COLUMNS), .shape_only = shapes}

/* A cache, and which of its slots the query tokens attend: slot p * page_size + r is row r of page p. */
typedef struct fm_selection {
  fm_pages pages;
  int32_t kv_format; /* of the pages: flashmla_kv_format */
  int32_t topk;      /* indices of a query token; 0: there is no selection */
  bool wide;         /* indices are int64 */
  const void *indices;
  int64_t stride[3]; /* of indices, in elements: batch, token; batch 0 with variable-length queries */
} fm_selection;

/* Number of the first index of a query token, which is `token` of all, and the index of a number. */
static inline int64_t fm_first_index(const fm_selection *selection, int32_t request, int64_t token) {
  return request * selection->stride[0] + token * selection->stride[1];
}
static inline int64_t fm_index_at(const fm_selection *selection, int64_t number) {
  const void *indices = selection->indices;
  return selection->wide ? ((const int64_t *)indices)[number] : ((const int32_t *)indices)[number];
}
/* Fields of the params of kernels that tell where the indices of a selection lie, and in which slots. */
#define FM_INDICES_PARAMS(prefix, selection)                                                             \
  .prefix##indices = (selection)->indices, .prefix##indices_stride_b = (selection)->stride[0],           \
  .prefix##indices_stride_s = (selection)->stride[1], .prefix##slots = fm_slots_of(&(selection)->pages), \
  .prefix##wide_indices = (selection)->wide

enum { FM_MAIN = FM_FIRST_KIND, FM_EXTRA = FM_SECOND_KIND, FM_SELECTIONS = FM_ITEM_KINDS };

/* The KV items of a query token are its indices: so many as work.lengths says of the main selection, and as
 * work.extra_lengths of the extra one. */
typedef struct fm_sparse_decode {
  fm_attention attention;
  fm_selection selections[FM_SELECTIONS];
  int32_t num_threads; /* CPU only; 0: not given */
  void *stream;
  /* GPU */
  bool as_few; /* tiles are as those of few query tokens, however many there are */
  fm_attention_kernels kernels;
  fm_loaded attend_extra; /* of work apart: the kernel of the extra cache's format */
  fm_checker checker;
} fm_sparse_decode;

/* check.c: the rules that both operations have, on shapes and on what GPUs support. */
flashmla_status fm_check_sparse_step(const fm_call *call, uint32_t flags, int32_t max_seqlen_q,
                                     fm_sparse_decode *decode);
flashmla_status fm_check_sparse_step_on_cuda(const fm_sparse_decode *decode);
/* Addresses of lengths and offsets. */
void fm_bind_sparse_lengths(const fm_call *call, fm_sparse_decode *decode);
/* Lays out the call by `lay_out`, as a tuning file may say; kv_format of the main cache, -1 of a plan. What a size
 * query gives serves a call with fewer query tokens, too. */
flashmla_status fm_lay_out_sparse_step(fm_call *call, int32_t kv_format, fm_sparse_decode *decode, fm_hook *lay_out);
/* Tiles the call on its backend. */
flashmla_status fm_tile_sparse_step(const fm_call *call, fm_sparse_decode *decode);
/* A plan of such calls with what they must agree on, which is given (or NULL) or to be made. */
fm_given_plan fm_sparse_plan(const fm_sparse_decode *decode, const flashmla_plan *plan);

/* cuda_values.c: the checking mode, as in dense_decode.h. Of a plan, which has no cache, indices are not looked at. */
flashmla_status fm_check_sparse_values_on_host(const fm_sparse_decode *decode);
flashmla_status fm_prepare_sparse_check(fm_sparse_decode *decode);
flashmla_status fm_launch_sparse_check(const fm_sparse_decode *decode);

/* cuda.c, cpu.c */
flashmla_status fm_sparse_decode_cuda_limits(const fm_call *call, const fm_sparse_decode *decode, fm_limits *limits);
extern const fm_backend fm_sparse_decode_cuda, fm_sparse_decode_cpu;
extern const fm_backend fm_plan_sparse_decode_cuda, fm_plan_sparse_decode_cpu;

#endif /* FLASHMLA_OPS_SPARSE_DECODE_H_ */
