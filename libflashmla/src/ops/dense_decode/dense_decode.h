/* dense_decode.h - a checked call of dense decode, which plan_decode shares: a plan is made for the tensors of a decode
 * call, so both have the same rows, the same rules and the same state. */
#ifndef FLASHMLA_OPS_DENSE_DECODE_H_
#define FLASHMLA_OPS_DENSE_DECODE_H_

#include "attention/check.h"
#include "attention/cuda_findings.h"
#include "attention/kernels.h"
#include "attention/plan.h"
#include "core/operation.h"
#include "formats/pages.h"

/* Axes and rows of the tables of both operations; plan_decode has the first rows. */
enum {
  FM_D_QK = FM_OWN_AXES,
  FM_NUM_BLOCKS,
  FM_PAGE_SIZE,
  FM_H_KV,
  FM_MAX_BLOCKS,
  FM_D_V,
  FM_OFFSETS,
  FM_TOKEN,
  FM_Q_LATENT_COLUMNS,
  FM_Q_ROPE_COLUMNS,
  FM_DECODE_AXES
};
extern const fm_axis fm_decode_axes[FM_DECODE_AXES];
enum { FM_Q, FM_KV_CACHE, FM_BLOCK_TABLE, FM_CACHE_SEQLENS, FM_CU_SEQLENS_Q, FM_Q_ROPE, FM_STEP_ROWS };
/* A plan takes the flags of its calls, though it looks at few of them. */
enum {
  FM_STEP_FLAGS = FLASHMLA_CAUSAL | FLASHMLA_DEFAULT_SCALE | FLASHMLA_LSE_BASE2 | FLASHMLA_EMPTY_LSE_MINUS |
  FLASHMLA_BATCH_INVARIANT
};
/* The rows of the tensors that a plan and its calls share, in a params struct `type`. `shapes`: a plan looks at the
 * memory of the lengths alone. */
#define FM_STEP_ARGUMENTS(type, shapes)                                                                            \
  [FM_Q] = {FM_FIELD(type, q),                                                                                     \
            .rank = 4,                                                                                             \
            .axes = {FM_BATCH, FM_S_Q, FM_H_Q, FM_D_QK},                                                           \
            .dtypes = FM_ANY_FLOAT,                                                                                \
            .alignment = FM_VECTOR_BYTES,                                                                          \
            .mapped = true,                                                                                        \
            .of_queries = true,                                                                                    \
            .coded = true,                                                                                         \
            .parted_axis = FM_Q_LATENT_COLUMNS,                                                                    \
            .shape_only = shapes},                                                                                 \
  [FM_KV_CACHE] = {FM_FIELD(type, kv_cache),                                                                       \
                   .rank = 4,                                                                                      \
                   .axes = {FM_NUM_BLOCKS, FM_PAGE_SIZE, FM_H_KV, FM_D_QK},                                        \
                   .like = FM_LIKE(FM_Q),                                                                          \
                   .alignment = FM_VECTOR_BYTES,                                                                   \
                   .mapped = true,                                                                                 \
                   .shape_only = shapes,                                                                           \
                   FM_OF_FORMAT(FM_MAIN_PAGES, kv_format),                                                         \
                   .packed_axis = FM_TOKEN},                                                                       \
  [FM_BLOCK_TABLE] = {FM_FIELD(type, block_table),       .rank = 2,                                                \
                      .axes = {FM_BATCH, FM_MAX_BLOCKS}, .dtypes = FM_ONLY(FM_INT32),                              \
                      .alignment = sizeof(int32_t),      .shape_only = shapes},                                    \
  [FM_CACHE_SEQLENS] = {FM_FIELD(type, cache_seqlens), .rank = 1, .axes = {FM_BATCH}, .dtypes = FM_ONLY(FM_INT32), \
                        .alignment = sizeof(int32_t)},                                                             \
  [FM_CU_SEQLENS_Q] =                                                                                              \
      {FM_FIELD(type, cu_seqlens_q), .rank = 1,        .axes = {FM_OFFSETS}, .dtypes = FM_ONLY(FM_INT32),          \
       .alignment = sizeof(int32_t), .optional = true, .offsets = true},                                           \
  [FM_Q_ROPE] = {FM_Q_ROPE_FIELDS(type, q_rope, FM_Q, FM_Q_ROPE_COLUMNS), .shape_only = shapes}

/* The paged cache. */
typedef struct fm_paged {
  fm_pages pages;
  int32_t kv_format; /* of them: flashmla_kv_format */
  int32_t max_blocks;
  const int32_t *block_table;
  int64_t block_table_stride; /* between requests */
} fm_paged;

/* How units of 64 tokens lie in the pages, for kernels; see FM_DENSE_DECODE_PARAMS. */
typedef struct fm_paging {
  int32_t whole_pages, rows_beyond, boxes, box_rows, page_inverse;
  int64_t by_page;
} fm_paging;

typedef struct fm_dense_decode {
  fm_attention attention;
  fm_paged paged;
  bool fp8_products;   /* are permitted */
  int32_t num_threads; /* CPU only; 0: not given */
  void *stream;
  /* GPU: the kernels of the call, what they are told beside, and the tensor map of the cache. */
  fm_attention_kernels kernels;
  fm_checker checker;
  fm_paging paging;
  int64_t kv_policy;
  CUtensorMap cache_map;
} fm_dense_decode;

/* The scalars that a plan and its calls share. */
typedef struct fm_step_scalars {
  uint32_t flags;
  int32_t max_seqlen_q, kv_format, window;
} fm_step_scalars;

/* check.c: the rules that both operations have. In read_form: of the scalars that decide on the form. */
flashmla_status fm_read_step(const DLTensor *cu_seqlens_q, const DLTensor *q_rope, fm_step_scalars scalars,
                             fm_form *form);
/* In check_shapes. */
flashmla_status fm_check_step(const fm_call *call, fm_step_scalars scalars, fm_dense_decode *decode);
/* Addresses of the lengths. */
void fm_bind_lengths(const fm_call *call, fm_dense_decode *decode);
/* Asks the tuning file. */
void fm_look_up_step(const fm_call *call, fm_dense_decode *decode);
/* Tiles the call on its backend. */
flashmla_status fm_tile_step(const fm_call *call, fm_dense_decode *decode);

/* A plan of such calls with what they must agree on, which is given (or NULL) or to be made. */
fm_given_plan fm_decode_plan(const fm_dense_decode *decode, const flashmla_plan *plan);

/* A shard of context parallelism as kernels are told; period 0: the cache is whole. */
typedef struct fm_shard {
  int32_t period, interleave, offset;
} fm_shard;
fm_shard fm_shard_of(const fm_mask *mask); /* cuda.c */

/* cuda_values.c: the checking mode. On the host, before the call; on a GPU what it takes, and the report of earlier
 * calls with the launch that looks at this one's values. All succeed where the mode is off. */
flashmla_status fm_check_values_on_host(const fm_dense_decode *decode);
flashmla_status fm_prepare_check(fm_dense_decode *decode);
flashmla_status fm_launch_check(const fm_dense_decode *decode);

/* cuda.c, cpu.c */
bool fm_multiplies_codes(const fm_call *call, const fm_dense_decode *decode); /* whether 8-bit products are made */
flashmla_status fm_dense_decode_cuda_limits(const fm_call *call, const fm_dense_decode *decode, fm_limits *limits);
extern const fm_backend fm_dense_decode_cuda, fm_dense_decode_cpu, fm_plan_decode_cuda, fm_plan_decode_cpu;

#endif /* FLASHMLA_OPS_DENSE_DECODE_H_ */
