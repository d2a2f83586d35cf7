/* attention.h - what attention operations have in common, whatever K and V are read from: the query rows with their
 * schedule, which tokens a row attends, and where its result goes. */
#ifndef FLASHMLA_ATTENTION_ATTENTION_H_
#define FLASHMLA_ATTENTION_ATTENTION_H_

#include "core/dtype.h"
#include "schedule/schedule.h"

/* Which of a request's tokens a query token attends: FLASHMLA_CAUSAL, and the shard of context parallelism. */
typedef struct fm_mask {
  bool causal;
  int32_t cp_rank, cp_world, cp_interleave; /* cp_world 0: the cache is whole */
  const int32_t *global_seqlens;
} fm_mask;

/* Rows of results, strides in elements; with variable-length queries the batch strides are 0: query token s of request
 * i is the token fm_query_range_of says, whatever the request. */
typedef struct fm_output {
  fm_dtype dtype;
  void *out;
  int64_t out_stride[3]; /* batch, token, head */
  float *lse;            /* NULL: not wanted */
  int64_t lse_stride[3]; /* batch, head, token */
  bool lse_base2;
  float empty_lse; /* +inf or -inf: of a row that attends to nothing */
} fm_output;

typedef struct fm_attention {
  fm_work work;
  fm_mask mask;
  fm_output output;
  int32_t d_v;
  fm_tiling tiling;
  fm_layout layout;
  fm_schedule schedule;
  fm_partials partials;
} fm_attention;

/* mask.c: tokens that the query token `token` of `count` attends, of the request's `length` clamped ones. */
int64_t fm_attended(const fm_mask *mask, int32_t request, int64_t length, int32_t count, int32_t token);

/* +inf, or -inf with FLASHMLA_EMPTY_LSE_MINUS. */
float fm_empty_lse(uint32_t flags);

#endif /* FLASHMLA_ATTENTION_ATTENTION_H_ */
