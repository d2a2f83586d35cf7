/* cuda.h - what attention kernels on a GPU have in common: results, partial results and the kernels that join them.
 */
#ifndef FLASHMLA_ATTENTION_CUDA_H_
#define FLASHMLA_ATTENTION_CUDA_H_

#include "attention/attention.h"
#include "attention/kernels.h"
#include "schedule/cuda.h"

#define FM_LN_2 0.69314718055994531f

/* Fields of schedule and results in the params of combine, fold and of every attention kernel. */
#define FM_ATTENTION_FIELDS(attention)                                                                          \
  FM_SCHEDULE_FIELDS(&(attention)->work, &(attention)->tiling, &(attention)->divisors, &(attention)->schedule), \
      .partial = (attention)->partials.rows, .partial_facts = (attention)->partials.facts,                      \
      .out = (attention)->output.out, .lse = (attention)->output.lse, .sink = (attention)->output.sink,         \
      .out_stride_b = (attention)->output.out_stride[0], .out_stride_s = (attention)->output.out_stride[1],     \
      .out_stride_h = (attention)->output.out_stride[2], .lse_stride_b = (attention)->output.lse_stride[0],     \
      .lse_stride_h = (attention)->output.lse_stride[1], .lse_stride_s = (attention)->output.lse_stride[2],     \
      .out_is_float = (attention)->output.dtype == FM_FP32,                                                     \
      .lse_factor = (attention)->output.lse_base2 ? 1.0f : FM_LN_2, .empty_lse = (attention)->output.empty_lse

/* cuda.c. Loads the kernels of a call, whose gpu is open, and encodes the tensor maps of queries; `need`: of the kernel
 * that attends. */
flashmla_status fm_load_attention(fm_need need, fm_attention *attention, fm_attention_kernels *kernels);
/* New addresses of queries into their maps. */
flashmla_status fm_encode_queries_again(const fm_attention *attention, fm_attention_kernels *kernels);
/* The launch that makes the schedule, for calls that make a plan; it is the last kernel. */
flashmla_status fm_launch_schedule(const fm_attention *attention, const fm_attention_kernels *kernels, void *stream);
/* A launch that attends: of so many parts. */
typedef struct fm_attend {
  const fm_loaded *kernel;
  int32_t num_parts;
  const void *params;
} fm_attend;
/* The launches of a call in their order, in a context of the device. */
flashmla_status fm_launch_attention(const fm_attention *attention, const fm_attention_kernels *kernels,
                                    const fm_attend *attends, int32_t count, void *stream);

#endif /* FLASHMLA_ATTENTION_CUDA_H_ */
