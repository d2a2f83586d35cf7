/* check.h - rules of attention calls that their tables do not say, and what backends get of queries and results. */
#ifndef FLASHMLA_ATTENTION_CHECK_H_
#define FLASHMLA_ATTENTION_CHECK_H_

#include "attention/attention.h"
#include "core/operation.h"

/* In read_form: variable-length queries, and queries in two parts. */
flashmla_status fm_check_queries(const DLTensor *cu_seqlens_q, const DLTensor *q_rope, int32_t max_seqlen_q,
                                 fm_form *form);

/* Latent dimensions, which are the value, with and without RoPE dimensions behind them. The CPU has all, kernels have
 * FM_KERNEL_GEOMETRIES and do those of fm_kernel_geometry. */
typedef struct fm_geometry {
  int32_t d_qk, d_v;
} fm_geometry;
const fm_geometry *fm_geometry_at(int32_t i); /* `i` from 0; NULL behind the last */
/* The geometry of the kernels that do a call's: the same, or one with more RoPE dimensions, which they find to be
 * zeros. NULL: no kernel does it. */
const fm_geometry *fm_kernel_geometry(int32_t d_qk, int32_t d_v);

/* In check_shapes: the query rows of a call that passed; h_kv is 1, and nothing is said of KV items. */
fm_work fm_work_of(const fm_call *call, int32_t batch, uint32_t flags, int32_t max_seqlen_q);
/* dtype and d_qk of the tensors in rows `q` and `q_rope` of the table; and the d_v that goes with it, where `given` is
 * that of `out`, or 0 where there is none. kernels_d_v: that of the operation's kernels, or 0: it has them for all. */
flashmla_status fm_check_geometry(const fm_call *call, int32_t q, int32_t q_rope, int32_t given, int32_t kernels_d_v,
                                  fm_attention *attention);
/* "q.shape[3]", or with its second part "q.shape[3] + q_rope.shape[3]". */
fm_text fm_name_d_qk(const fm_call *call, int32_t q);

/* In check_values. `softmax_scale`: of params. */
flashmla_status fm_check_scale(uint32_t flags, float softmax_scale, fm_queries *queries);
void fm_set_scale(double scale, fm_queries *queries);
/* Strides, dtypes and flags; rows of the table. */
typedef struct fm_result_rows {
  int32_t q, q_rope, out, lse, sink;
} fm_result_rows;
void fm_read_results(const fm_call *call, fm_result_rows rows, uint32_t flags, fm_attention *attention);

/* In bind: addresses. */
void fm_bind_results(const fm_call *call, fm_result_rows rows, fm_attention *attention);

#endif /* FLASHMLA_ATTENTION_CHECK_H_ */
