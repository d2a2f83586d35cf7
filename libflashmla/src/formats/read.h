/* read.h - tokens from the pages of a cache to rows: what gather_kv and dequantize_kv have in common. */
#ifndef FLASHMLA_FORMATS_READ_H_
#define FLASHMLA_FORMATS_READ_H_

#include "cuda/launch.h"
#include "formats/pages.h"

enum { FM_READ_TOKENS = FM_ROWS_AXES, FM_READ_COLUMNS, FM_READ_MAX_BLOCKS, FM_READ_OFFSETS, FM_READ_AXES };
/* The tensors of such an operation: rows of its table. */
enum { FM_READ_PAGES, FM_READ_OUT, FM_READ_DESCALE, FM_READ_BLOCK_TABLE, FM_READ_CU_SEQLENS, FM_READ_SEQ_STARTS };
#define FM_READ_OUT_FIELDS(type)                                                                     \
  FM_FIELD(type, out), .rank = 2, .axes = {FM_READ_TOKENS, FM_READ_COLUMNS}, .dtypes = FM_ANY_FLOAT, \
      .alignment = FM_VECTOR_BYTES, .written = true
#define FM_READ_AXES_OF_OUT [FM_READ_TOKENS] = {"num_tokens", true}, [FM_READ_COLUMNS] = {"d_qk", false}

/* A checked call. Without a block table row i is that of slot i. Else rows cu_seqlens[i] ... cu_seqlens[i + 1] - 1 are
 * those of request i: its tokens from seq_starts[i] on, at row t % page_size of page block_table[i][t / page_size]. A
 * token that the table has no place for, and one of a page outside the cache, is a row of zeros. */
typedef struct fm_read {
  fm_pages pages;
  int32_t num_tokens; /* rows of out */
  fm_dtype dtype;     /* of out */
  char *out;
  int64_t out_step;           /* bytes */
  const int32_t *block_table; /* NULL: none */
  int64_t block_table_stride; /* between requests */
  int32_t batch, max_blocks;
  const int32_t *cu_seqlens, *seq_starts; /* the latter NULL: 0 */
  int64_t cu_seqlens_stride, seq_starts_stride;
  int32_t num_threads;
  void *stream;
  /* GPU */
  fm_gpu gpu;
  fm_loaded kernel;
} fm_read;

/* In check_shapes; bind. */
flashmla_status fm_check_read(fm_call *call, int32_t kv_format, int32_t num_threads, fm_read *read);
void fm_bind_read(const fm_call *call, void *stream, fm_read *read);

/* For the profiler: as many rows of the cache as there are tokens. */
void fm_describe_read(const fm_call *call, const void *state, fm_facts *facts);

/* cuda_read.c, cpu_read.c */
extern const fm_backend fm_gather_kv_cuda, fm_gather_kv_cpu, fm_dequantize_kv_cuda, fm_dequantize_kv_cpu;

#endif /* FLASHMLA_FORMATS_READ_H_ */
