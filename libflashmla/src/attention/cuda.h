/* cuda.h - what attention kernels on a GPU have in common: results, partial results and the kernels that join them.
 */
#ifndef FLASHMLA_ATTENTION_CUDA_H_
#define FLASHMLA_ATTENTION_CUDA_H_

#include "attention/attention.h"
#include "schedule/cuda.h"

#define FM_LN_2 0.69314718055994531f

/* Fields of schedule and results in the params of combine, fold and of every attention kernel. */
#define FM_ATTENTION_FIELDS(attention)                                                                          \
  FM_SCHEDULE_FIELDS(&(attention)->work, &(attention)->tiling, &(attention)->divisors, &(attention)->schedule), \
      .partial = (attention)->partials.rows, .partial_facts = (attention)->partials.facts,                      \
      .out = (attention)->output.out, .lse = (attention)->output.lse,                                           \
      .out_stride_b = (attention)->output.out_stride[0], .out_stride_s = (attention)->output.out_stride[1],     \
      .out_stride_h = (attention)->output.out_stride[2], .lse_stride_b = (attention)->output.lse_stride[0],     \
      .lse_stride_h = (attention)->output.lse_stride[1], .lse_stride_s = (attention)->output.lse_stride[2],     \
      .out_is_float = (attention)->output.dtype == FM_FP32,                                                     \
      .lse_factor = (attention)->output.lse_base2 ? 1.0f : FM_LN_2, .empty_lse = (attention)->output.empty_lse

/* cuda.c: the kernel that joins partial results, fold where the work is batch invariant, else combine. `dtype`: of
 * results, where they are not float32. */
flashmla_status fm_load_join(fm_gpu gpu, const fm_attention *attention, fm_dtype dtype, fm_loaded *join);
flashmla_status fm_launch_join(fm_gpu gpu, const fm_loaded *join, const fm_attention *attention, void *stream);
/* q, whose rows are of `d` columns, with a box of one row block: (d, head in group, token, KV head, request). */
fm_tensor_map fm_query_map(const fm_attention *attention, fm_dtype dtype, int32_t d, const void *q,
                           const int64_t stride[3]);

#endif /* FLASHMLA_ATTENTION_CUDA_H_ */
