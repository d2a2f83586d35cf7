/* sparse_decode.h - a checked call of sparse_decode. */
#ifndef FLASHMLA_OPS_SPARSE_DECODE_H_
#define FLASHMLA_OPS_SPARSE_DECODE_H_

#include "attention/check.h"
#include "attention/kernels.h"
#include "formats/pages.h"

enum {
  FM_SPARSE_MOST_HEADS = 128 /* h_q */
};

/* A cache, and which of its slots the query tokens attend: slot p * page_size + r is row r of page p. */
typedef struct fm_selection {
  fm_pages pages;
  int32_t kv_format; /* of the pages: flashmla_kv_format */
  int32_t topk;      /* indices of a query token; 0: there is no selection */
  bool wide;         /* indices are int64 */
  const void *indices;
  int64_t stride[3]; /* of indices, in elements: batch, token; batch 0 with variable-length queries */
} fm_selection;

enum { FM_MAIN, FM_EXTRA, FM_SELECTIONS };

/* The KV items of a query token are its indices: so many as work.lengths says of the main selection, and as
 * work.extra_lengths of the extra one. */
typedef struct fm_sparse_decode {
  fm_attention attention;
  fm_selection selections[FM_SELECTIONS];
  int32_t num_threads; /* CPU only; 0: not given */
  void *stream;
  fm_attention_kernels kernels; /* GPU */
} fm_sparse_decode;

/* cuda.c, cpu.c */
flashmla_status fm_sparse_decode_cuda_limits(const fm_call *call, fm_limits *limits);
extern const fm_backend fm_sparse_decode_cuda, fm_sparse_decode_cpu;

#endif /* FLASHMLA_OPS_SPARSE_DECODE_H_ */
