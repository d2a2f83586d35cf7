/* attention.h - what attention operations have in common, whatever K and V are read from: the query rows with their
 * schedule, which tokens a row attends, and where its result goes. */
#ifndef FLASHMLA_ATTENTION_ATTENTION_H_
#define FLASHMLA_ATTENTION_ATTENTION_H_

#include "core/argument.h"
#include "schedule/schedule.h"
#include "schedule/stamp.h"
#include "tuning/tuning.h"

/* Which of a request's tokens a query token attends: FLASHMLA_CAUSAL, a sliding window, and the shard of context
 * parallelism. */
typedef struct fm_mask {
  bool causal;
  int32_t window;                           /* of those only so many last ones; 0: all */
  int32_t cp_rank, cp_world, cp_interleave; /* cp_world 0: the cache is whole */
  const int32_t *global_seqlens;
} fm_mask;

/* q: what keys are multiplied with. Its latent columns, and the RoPE columns behind them, which a call may give as a
 * tensor of their own. */
typedef struct fm_queries {
  fm_dtype dtype; /* that they are attended in */
  int32_t d_qk;
  const void *data;
  const void *rope;       /* the first of the RoPE columns, where there are any */
  int64_t stride[3];      /* in elements: batch, token, head; batch 0 with variable-length queries */
  int64_t rope_stride[3]; /* likewise; those of q where that has all columns */
  bool parted;            /* RoPE columns are a tensor of their own */
  bool coded;             /* rows are float8_e4m3fn codes, of numbers of `dtype` */
  const float *descale;   /* what codes are multiplied with; NULL: 1 */
  double softmax_scale;
  /* softmax_scale * log2(e), at most the largest float and no less than the smallest normal one: logits are as good
   * with these, and 0 * infinity would be NaN. */
  float scale_log2;
} fm_queries;

/* Bytes of a column in memory. */
static inline int32_t fm_query_bytes(const fm_queries *queries) {
  return queries->coded ? 1 : fm_dtype_bytes(queries->dtype);
}
/* In host memory. */
static inline float fm_descale_of_queries(const fm_queries *queries) {
  return queries->descale != NULL ? *queries->descale : 1.0f;
}

/* The RoPE columns of queries in two parts, whose first part is in row `q`. */
#define FM_Q_ROPE_FIELDS(type, field, q, d_rope)                                                    \
  FM_FIELD(type, field), .rank = 4, .axes = {FM_BATCH, FM_S_Q, FM_H_Q, d_rope}, .like = FM_LIKE(q), \
      .alignment = FM_VECTOR_BYTES, .mapped = true, .of_queries = true, .optional = true

/* Rows of results and their log-sum-exps: in the table of an operation, and checked. Strides are in elements; with
 * variable-length queries the batch strides are 0: query token s of request i is the token fm_query_range_of says,
 * whatever the request. */
#define FM_OUT_FIELDS(type, field, d_v)                                                                    \
  FM_FIELD(type, field), .rank = 4, .axes = {FM_BATCH, FM_S_Q, FM_H_Q, d_v}, .alignment = FM_VECTOR_BYTES, \
      .of_queries = true
#define FM_LSE_FIELDS(type, field)                                                                  \
  FM_FIELD(type, field), .rank = 3, .axes = {FM_BATCH, FM_H_Q, FM_S_Q}, .dtypes = FM_ONLY(FM_FP32), \
      .alignment = sizeof(float), .free_innermost = true, .of_queries = true
#define FM_SINK_FIELDS(type, field)                                                                           \
  FM_FIELD(type, field), .rank = 1, .axes = {FM_H_Q}, .dtypes = FM_ONLY(FM_FP32), .alignment = sizeof(float), \
      .optional = true
typedef struct fm_output {
  fm_dtype dtype;
  void *out;
  int64_t out_stride[3]; /* batch, token, head */
  float *lse;            /* NULL: not wanted */
  int64_t lse_stride[3]; /* batch, head, token */
  float value_scale;     /* what rows are multiplied with: of values that are attended as codes, else 1 */
  bool lse_base2;
  float empty_lse;   /* +inf or -inf: of a row that attends to nothing */
  const float *sink; /* of each query head, a natural logit that takes part in the softmax alone; NULL: none */
} fm_output;

typedef struct fm_attention {
  fm_work work;
  fm_queries queries;
  fm_mask mask;
  fm_output output;
  int32_t d_v;
  bool own_plan;       /* the call is given no plan: it makes its own, or is to make one */
  fm_plan_stamp stamp; /* of the plan that it is given */
  fm_tuned tuned;      /* what a tuning file says of the call */
  fm_tiling tiling;
  fm_known_cuts known;  /* GPU: cuts that no kernel of the call reads */
  fm_divisors divisors; /* of the tiling; GPU */
  fm_layout layout;
  fm_schedule schedule;
  fm_partials partials;
} fm_attention;

/* Whether the call makes its schedule. No plan has one of work apart: of a plan that is given num_splits is taken. */
static inline bool fm_makes_schedule(const fm_attention *attention) {
  return attention->own_plan || attention->work.apart;
}

/* mask.c: tokens that the query token `token` of `count` attends, of the request's `length` clamped ones. */
int64_t fm_attended(const fm_mask *mask, int32_t request, int64_t length, int32_t count, int32_t token);

/* The first of the `attended` ones that the window leaves. */
static inline int64_t fm_window_begin(const fm_mask *mask, int64_t attended) {
  return mask->window > 0 ? fm_max64(attended - mask->window, 0) : 0;
}

/* +inf, or -inf with FLASHMLA_EMPTY_LSE_MINUS. */
float fm_empty_lse(uint32_t flags);

#endif /* FLASHMLA_ATTENTION_ATTENTION_H_ */
