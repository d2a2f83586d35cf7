/* plan.h - plans of decode steps; rules that hold for every function: flashmla.h. */
#ifndef FLASHMLA_PLAN_H_
#define FLASHMLA_PLAN_H_

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Plans of dense decode ---- */

/* A plan: the split-KV schedule of one decode step, shared by the layers of that step. Opaque; made by
 * flashmla_plan_decode for flashmla_dense_decode, by flashmla_plan_sparse_decode for flashmla_sparse_decode. It names
 * the buffer it was made in, so it may be copied by value while that buffer lives. */
typedef struct flashmla_plan {
  uint64_t opaque[32];
} flashmla_plan;

/* Arguments of flashmla_plan_decode: the tensors of the flashmla_dense_decode call it is for. Only their shapes, dtype
 * and device are read, and the values of cache_seqlens (on the device). */
typedef struct flashmla_plan_decode_params {
  uint32_t struct_size;          /* sizeof(flashmla_plan_decode_params) */
  uint32_t flags;                /* flashmla_flags of the decode call */
  const DLTensor *q;             /* as in flashmla_dense_decode_params */
  const DLTensor *kv_cache;      /* " */
  const DLTensor *block_table;   /* " */
  const DLTensor *cache_seqlens; /* " */
  int32_t num_splits;            /* 0: chosen for balance; n in [1, 1024]: every sequence is cut into n parts, or
                                    into its units of 64 tokens if fewer; 0 with FLASHMLA_BATCH_INVARIANT */
  uint32_t reserved;             /* 0 */
  void *buffer;                  /* schedule memory on q's device, 16-byte aligned; must outlive the plan's last use */
  uint64_t buffer_size;          /* bytes; at least what flashmla_plan_decode_size says */
  void *stream;                  /* CUstream of q's device (NULL: the default stream); ignored for CPU tensors */
  const DLTensor *cu_seqlens_q;  /* as in flashmla_dense_decode_params; its values are read too */
  int32_t max_seqlen_q;          /* " */
  uint32_t reserved2;            /* 0 */
  int32_t kv_format;             /* as in flashmla_dense_decode_params; plans of all that quantise are alike */
  int32_t window;                /* as in flashmla_dense_decode_params */
  const DLTensor *q_rope;        /* " */
} flashmla_plan_decode_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_PLAN_DECODE_PARAMS_INIT \
  {sizeof(flashmla_plan_decode_params), 0, NULL, NULL, NULL, NULL, 0, 0, NULL, 0, NULL, NULL, 0, 0, 0, 0, NULL}

/* Bytes of schedule memory a plan needs. Follows from shapes, flags, num_splits and device alone; data, buffer and
 * stream are not looked at. On a GPU a size query may load a kernel, to ask how many clusters of it run at once.
 * `params`: as for the plan. Writes *bytes, 0 where there is no query token: the buffer may be NULL then. Returns what
 * flashmla_plan_decode would return for shapes, dtypes, device, flags and num_splits. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_plan_decode_size(const flashmla_plan_decode_params *params,
                                                                      uint64_t *bytes);

/* Makes a plan: checks, fills *plan on the host and enqueues the scheduling on the device (no synchronisation). For CPU
 * tensors the schedule is in the buffer when it returns. Decode calls with the plan must run behind it: on the same
 * stream, or on one that waits for it. Returns FLASHMLA_OK, or what is wrong: FLASHMLA_ERROR_WORKSPACE_TOO_SMALL for a
 * small buffer, 2xx where no kernel does it, 3xx where the driver fails; *plan is then as it was. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_plan_decode(const flashmla_plan_decode_params *params,
                                                                 flashmla_plan *plan);

/* Prepares a call of flashmla_plan_decode, see flashmla_prepared. Returns what that would, or
 * FLASHMLA_ERROR_OUT_OF_MEMORY. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_plan_decode_prepare(const flashmla_plan_decode_params *params,
                                                                         flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_plan_decode with the addresses in `params`, and fills *plan. Returns as
 * flashmla_<operation>_run does, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_plan_decode_run(const flashmla_prepared *prepared,
                                                                     const flashmla_plan_decode_params *params,
                                                                     flashmla_plan *plan);

/* ---- Plans of sparse decode ---- */

/* Arguments of flashmla_plan_sparse_decode: the tensors of the flashmla_sparse_decode call it is for. Only their
 * shapes, dtype and device are read, and the values of the lengths and of cu_seqlens_q (on the device). */
typedef struct flashmla_plan_sparse_decode_params {
  uint32_t struct_size;              /* sizeof(flashmla_plan_sparse_decode_params) */
  uint32_t flags;                    /* flashmla_flags of the decode call */
  const DLTensor *q;                 /* as in flashmla_sparse_decode_params */
  const DLTensor *indices;           /* " */
  const DLTensor *topk_length;       /* " */
  const DLTensor *extra_indices;     /* " */
  const DLTensor *extra_topk_length; /* " */
  const DLTensor *cu_seqlens_q;      /* " */
  int32_t max_seqlen_q;              /* " */
  int32_t num_splits;                /* as in flashmla_plan_decode_params, of the indices of a query token; with
                                        FLASHMLA_BATCH_INVARIANT on CUDA, too: bits follow from it then, on CPU not */
  void *buffer;                      /* as in flashmla_plan_decode_params */
  uint64_t buffer_size;              /* bytes; at least what flashmla_plan_sparse_decode_size says */
  void *stream;                      /* as in flashmla_plan_decode_params */
  const DLTensor *q_rope;            /* as in flashmla_sparse_decode_params */
  int32_t kv_format;                 /* as in flashmla_sparse_decode_params; the plan serves calls on caches of any
                                        format, and may be slower where one quantises and the other does not */
  uint32_t reserved;                 /* 0 */
} flashmla_plan_sparse_decode_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_PLAN_SPARSE_DECODE_PARAMS_INIT \
  {sizeof(flashmla_plan_sparse_decode_params), 0, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, 0, NULL, NULL, 0, 0}

/* Bytes of schedule memory a plan for flashmla_sparse_decode needs. As flashmla_plan_decode_size, but that it follows
 * from kv_format, too, and from whether lengths are given. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status
flashmla_plan_sparse_decode_size(const flashmla_plan_sparse_decode_params *params, uint64_t *bytes);

/* Makes a plan for flashmla_sparse_decode. Works and returns as flashmla_plan_decode. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status
flashmla_plan_sparse_decode(const flashmla_plan_sparse_decode_params *params, flashmla_plan *plan);

/* Prepares a call of flashmla_plan_sparse_decode, see flashmla_prepared. Returns what that would, or
 * FLASHMLA_ERROR_OUT_OF_MEMORY. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status
flashmla_plan_sparse_decode_prepare(const flashmla_plan_sparse_decode_params *params, flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_plan_sparse_decode with the addresses in `params`, and fills *plan. Returns as
 * flashmla_<operation>_run does, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_plan_sparse_decode_run(
    const flashmla_prepared *prepared, const flashmla_plan_sparse_decode_params *params, flashmla_plan *plan);

#ifdef __cplusplus
}
#endif

#endif /* FLASHMLA_PLAN_H_ */
