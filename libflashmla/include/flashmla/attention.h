/* attention.h - attention over a paged KV cache, and merges of its results; rules that hold for every function:
 * flashmla.h. */
#ifndef FLASHMLA_ATTENTION_H_
#define FLASHMLA_ATTENTION_H_

#include "core.h"
#include "kv_cache.h"
#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Dense decode ---- */

/* What products may round. FP8 permits, and never asks for, products of 8-bit codes (float8_e4m3fn) on tensor cores.
 * Softmax weights become such codes, of 4 significant bits and fewer from 2^-14 of a row's largest one on. Sums keep
 * about 14 bits of their largest member, so logits are off by up to 2^-13 of the largest product of a code of q and one
 * of a key, and of values that have one sign in thousands of tokens a part is lost: docs/caches.md has the errors. It
 * is done on CUDA where q is codes, with a d_v of 256 or 512, in pages of a multiple of 64 tokens; other calls compute
 * as by default. */
typedef enum flashmla_compute { FLASHMLA_COMPUTE_DEFAULT = 0, FLASHMLA_COMPUTE_FP8 = 1 } flashmla_compute;

/* Paged dense MLA decode. For query token s of request i and query head h, over the attended tokens t of its KV head
 * h / (h_q / h_kv), with k_t = kv_cache[block_table[i, t / page_size], t % page_size]:
 *     x_t = softmax_scale * <q, k_t>;   lse = ln(sum_t exp(x_t));   out = sum_t exp(x_t - lse) * k_t[0 : d_v]
 * Attended are t < L, or with FLASHMLA_CAUSAL t < L - (s_q - 1 - s), where L is cache_seqlens[i] clamped to
 * [0, max_blocks * page_size]. No attended token: out = 0, lse = +inf (see FLASHMLA_EMPTY_LSE_MINUS). A page number
 * outside [0, num_blocks) within L stands for a page of zeros that takes part. With a window of w tokens each query
 * token attends the last w of those alone, and pages that end 64 tokens before all of them are not read. A slot
 * that a row does not attend never influences the row, even when it holds NaN; table entries of pages at or beyond L
 * may be anything.
 *
 * A cache that is quantised is attended as flashmla_dequantize_kv reads it to bfloat16. With FLASHMLA_KV_FP8 the scales
 * are applied to sums, so that nothing is rounded: k_t is code * descale_k, and q, where it is codes, code * descale_q.
 * A scale that is not finite makes rows NaN. See flashmla_compute for products that round.
 *
 * Variable-length queries: with cu_seqlens_q the query tokens of all requests lie behind one another, q is (total_q,
 * h_q, d_qk), out (total_q, h_q, d_v), lse (h_q, total_q). Request i has the tokens from b = cu_seqlens_q[i], clamped
 * to [0, total_q], up to cu_seqlens_q[i + 1], clamped to [b, total_q], and of those the first max_seqlen_q; their
 * number is its s_q above. Rows of no request are not written; rows that offsets out of order give to several requests
 * hold unspecified values.
 *
 * Context parallelism: with cp_world > 0 the cache is shard cp_rank of cp_world, into which the tokens are dealt in
 * turns of cp_interleave: local token t is global token (t / I) * I * world + rank * I + t % I, I = cp_interleave.
 * cache_seqlens counts local tokens, and attended are t < L whose global number is below G, or with FLASHMLA_CAUSAL
 * below G - (s_q - 1 - s), where G = global_seqlens[i], at least 0. flashmla_merge_states joins the shards' results.
 *
 * Source: DeepSeek-V2, arXiv 2405.04434, section 2.1 (MLA with absorbed projections); FlashMLA's dense decode. */
typedef struct flashmla_dense_decode_params {
  uint32_t struct_size; /* sizeof(flashmla_dense_decode_params) */
  uint32_t flags;       /* flashmla_flags */
  /* (batch, s_q, h_q, d_qk) or, with cu_seqlens_q, (total_q, h_q, d_qk); bf16 or fp16, on CPU also float32; with
   * FLASHMLA_KV_FP8 bf16 or codes: float8_e4m3fn, or uint8 or int8 for their bytes; d_qk / d_v 576 / 512, 512 /
   * 512, 320 / 256, 288 / 256 or 160 / 128, on CPU also 1088 / 1024; innermost stride 1, the others and the address
   * multiples of 16 bytes */
  const DLTensor *q;
  /* (num_blocks, page_size, h_kv, d_qk) dtype of q; h_kv divides h_q; any page_size; strides as q. Of a format that
   * quantises: see flashmla_kv_format; h_kv is 1, and d_qk the columns of the format */
  const DLTensor *kv_cache;
  const DLTensor *block_table;   /* (batch, max_blocks) int32, innermost stride 1 */
  const DLTensor *cache_seqlens; /* (batch) int32, contiguous; tokens */
  /* (batch, s_q, h_q, d_v) or (total_q, h_q, d_v), dtype of q (bf16 where it is codes) or float32, written; strides as
   * q */
  const DLTensor *out;
  /* (batch, h_q, s_q) or (h_q, total_q) float32, any strides, written: log-sum-exp; NULL: not wanted */
  const DLTensor *lse;
  float softmax_scale; /* finite and > 0; see FLASHMLA_DEFAULT_SCALE */
  /* CPU tensors: threads to use; 0: FLASHMLA_NUM_THREADS, else the affinity mask. Results never differ. */
  int32_t num_threads;
  /* NULL: the call makes its own schedule. Rows are right with any plan that is accepted, whatever its lengths. */
  const flashmla_plan *plan;
  void *workspace;              /* scratch on q's device, 16-byte aligned; NULL is fine where the size is 0 */
  uint64_t workspace_size;      /* bytes; at least what flashmla_dense_decode_workspace_size says */
  void *stream;                 /* CUstream of q's device (NULL: the default stream); ignored for CPU tensors */
  const DLTensor *cu_seqlens_q; /* (batch + 1) int32, contiguous: first query token of each request; NULL: q has s_q */
  int32_t max_seqlen_q;         /* query tokens of a request at most, > 0; 0 without cu_seqlens_q. More than total_q is
                                   as good as total_q: INT32_MAX is no limit and costs nothing */
  int32_t cp_rank;              /* this shard, in [0, cp_world) */
  int32_t cp_world;             /* shards; 0: the cache is whole, and the other fields of this kind are 0 and NULL */
  int32_t cp_interleave;        /* tokens of a turn, > 0 */
  const DLTensor *global_seqlens; /* (batch) int32, contiguous; tokens of each request over all shards */
  const DLTensor *attn_sink;      /* (h_q) float32, contiguous: see flashmla_sparse_decode_params; NULL: no sink */
  int32_t kv_format;              /* flashmla_kv_format of kv_cache; one that quantises takes q in bf16 */
  int32_t window;                 /* > 0: only so many last tokens are attended (no shards); 0: all */
  /* (1) float32, with FLASHMLA_KV_FP8: what q, where it is codes, and kv_cache are multiplied with; NULL: 1 */
  const DLTensor *descale_q;
  const DLTensor *descale_k;
  int32_t compute; /* flashmla_compute; other than the default with FLASHMLA_KV_FP8 alone */
  /* (batch, s_q, h_q, d_qk - d_v) or (total_q, h_q, d_qk - d_v), dtype and rules of q, strides of its own: the columns
   * of q from d_v on, its RoPE part. q has the first d_v then, (.., h_q, d_v). Where d_qk is d_v there is no such part.
   * NULL: q has all columns */
  const DLTensor *q_rope;
} flashmla_dense_decode_params;
/* Initialiser: struct_size, and all else 0. */
/* clang-format off */
#define FLASHMLA_DENSE_DECODE_PARAMS_INIT                                                                              \
  {sizeof(flashmla_dense_decode_params), 0, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL, 0, NULL, NULL, 0, 0, \
   0, 0, NULL, NULL, 0, 0, NULL, NULL, 0, NULL}
/* clang-format on */

/* Bytes of scratch a call needs. Follows from shapes, flags, device and the plan's num_splits alone, never from
 * lengths; data, workspace and stream are not looked at.
 * `params`: as for the call, with the plan that it will have, or without one. Writes *bytes, 0 where nothing is needed:
 * the workspace may be NULL then. Returns what flashmla_dense_decode would return for shapes, dtypes, device, flags and
 * the plan. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status
flashmla_dense_decode_workspace_size(const flashmla_dense_decode_params *params, uint64_t *bytes);

/* Runs the attention described at flashmla_dense_decode_params, and writes out and lse. Returns FLASHMLA_OK, or what is
 * wrong: 1xx an argument, among them FLASHMLA_ERROR_WORKSPACE_TOO_SMALL and, for a plan that was made for another call,
 * FLASHMLA_ERROR_PLAN_MISMATCH; 2xx where no kernel does it; 3xx where the driver fails or host memory runs out. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dense_decode(const flashmla_dense_decode_params *params);

/* Prepares a call of flashmla_dense_decode, see flashmla_prepared. Returns what that would. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dense_decode_prepare(const flashmla_dense_decode_params *params,
                                                                          flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_dense_decode with the addresses in `params`. With a plan, each run takes one that
 * was made with the same num_splits and batch invariance. Returns as flashmla_<operation>_run does, see
 * flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dense_decode_run(const flashmla_prepared *prepared,
                                                                      const flashmla_dense_decode_params *params);

/* ---- Sparse decode ---- */

/* Token-sparse MLA decode: each query token attends the tokens of the cache that it names. For query token s of request
 * i and query head h, over the indices e of indices[i, s] that are attended, with k_e the row of slot e: row e %
 * page_size of page e / page_size, dequantised where the format quantises, as flashmla_dequantize_kv does to bfloat16:
 *     x_e = softmax_scale * <q, k_e>;   lse = ln(sum_e exp(x_e));   out = sum_e exp(x_e - lse) * k_e[0 : d_v]
 * Attended are the first topk_length[i] indices, clamped to [0, topk], without those outside [0, num_blocks *
 * page_size), -1 say, for which nothing is read. An index that stands there twice counts twice. There is no other mask.
 * On CUDA a cache has room for fewer than 2^31 tokens.
 * No attended index: out = 0, lse = +inf (see FLASHMLA_EMPTY_LSE_MINUS). What is not attended, NaN perhaps, never
 * influences a row.
 *
 * A second selection, with extra_kv_cache: the sums go over the first extra_topk_length[i] indices of extra_indices[i,
 * s] too, which are slots of extra_kv_cache, a cache with pages and a format of its own. On CUDA two formats are
 * attended by a launch each, whose partial results are joined: the workspace has room for two blocks of 64 rows for
 * each query token and 64 heads, and with a plan holds the schedule, too.
 *
 * Attention sink: attn_sink[h] is a logit that takes part in the softmax without a value: out is multiplied by 1 / (1 +
 * exp(attn_sink[h] - lse)), and lse is that without the sink. -inf has no effect, with +inf out is 0, with NaN it is
 * NaN; a row that attends nothing stays 0.
 *
 * Variable-length queries: as in flashmla_dense_decode_params; indices are (total_q, topk) then.
 *
 * Sources: DeepSeek-V3.2 (sparse attention over the tokens that an indexer selects); FlashMLA's sparse decode. */
typedef struct flashmla_sparse_decode_params {
  uint32_t struct_size; /* sizeof(flashmla_sparse_decode_params) */
  uint32_t flags; /* FLASHMLA_DEFAULT_SCALE, FLASHMLA_LSE_BASE2, FLASHMLA_EMPTY_LSE_MINUS, FLASHMLA_BATCH_INVARIANT */
  /* (batch, s_q, h_q, d_qk) or, with cu_seqlens_q, (total_q, h_q, d_qk); h_q at most 128; on CUDA bf16 and d_qk 576 or
   * 512; on CPU also fp16, float32, where no format quantises, and any d_qk of flashmla_dense_decode_params; innermost
   * stride 1, the others and the address multiples of 16 bytes */
  const DLTensor *q;
  const DLTensor *kv_cache;          /* see flashmla_kv_format; not quantised: of q's dtype */
  const DLTensor *indices;           /* (batch, s_q, topk) or (total_q, topk) int32 or int64, innermost stride 1 */
  const DLTensor *topk_length;       /* (batch) int32, contiguous; NULL: all are topk */
  const DLTensor *attn_sink;         /* (h_q) float32, contiguous; natural logits; NULL: no sink */
  const DLTensor *extra_kv_cache;    /* as kv_cache, with the same columns; NULL: there is no second selection */
  const DLTensor *extra_indices;     /* (batch, s_q, extra_topk) or (total_q, extra_topk), as indices */
  const DLTensor *extra_topk_length; /* (batch) int32, contiguous; NULL: all are extra_topk */
  const DLTensor *cu_seqlens_q; /* (batch + 1) int32, contiguous: first query token of each request; NULL: q has s_q */
  /* (batch, s_q, h_q, d_v) or (total_q, h_q, d_v), d_v that goes with d_qk there; dtype of q or float32, written;
   * strides as q */
  const DLTensor *out;
  /* (batch, h_q, s_q) or (h_q, total_q) float32, any strides, written: log-sum-exp; NULL: not wanted */
  const DLTensor *lse;
  float softmax_scale;     /* finite and > 0; see FLASHMLA_DEFAULT_SCALE */
  int32_t num_threads;     /* CPU tensors, as in flashmla_dense_decode_params */
  int32_t kv_format;       /* flashmla_kv_format; one that quantises takes q in bf16 */
  int32_t extra_kv_format; /* likewise; 0 without extra_kv_cache */
  int32_t max_seqlen_q;    /* as in flashmla_dense_decode_params */
  uint32_t reserved;       /* 0 */
  void *workspace;         /* scratch on q's device, 16-byte aligned; NULL is fine where the size is 0 */
  uint64_t workspace_size; /* bytes; at least what flashmla_sparse_decode_workspace_size says */
  void *stream;            /* CUstream of q's device (NULL: the default stream); ignored for CPU tensors */
  /* From flashmla_plan_sparse_decode; as in flashmla_dense_decode_params. NULL: the call makes its own schedule. */
  const flashmla_plan *plan;
  const DLTensor *descale_k;       /* (1) float32, with FLASHMLA_KV_FP8: what kv_cache is multiplied with; NULL: 1 */
  const DLTensor *extra_descale_k; /* likewise of extra_kv_cache */
  const DLTensor *q_rope;          /* as in flashmla_dense_decode_params: RoPE columns of q. NULL: q has all columns */
} flashmla_sparse_decode_params;
/* Initialiser: struct_size, and all else 0. */
/* clang-format off */
#define FLASHMLA_SPARSE_DECODE_PARAMS_INIT                                                                            \
  {sizeof(flashmla_sparse_decode_params), 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0,   \
   0, 0, 0, 0, NULL, 0, NULL, NULL, NULL, NULL, NULL}
/* clang-format on */

/* Bytes of scratch a call needs. Follows from shapes, formats, flags, device and the plan, and without one from whether
 * lengths are given, never from their values; data, workspace and stream are not looked at. On CUDA it may load a
 * kernel. `params`: as for the call, with the plan that it will have, or without one. Writes *bytes, 0 where nothing is
 * needed: the workspace may be NULL then. Returns what flashmla_sparse_decode would return for shapes, dtypes, device,
 * flags and the plan. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status
flashmla_sparse_decode_workspace_size(const flashmla_sparse_decode_params *params, uint64_t *bytes);

/* Runs the attention described at flashmla_sparse_decode_params, and writes out and lse. Returns FLASHMLA_OK, or what
 * is wrong: 1xx an argument, FLASHMLA_ERROR_PLAN_MISMATCH for a plan that was made for another call; 2xx where no
 * kernel does it; 3xx where the driver fails or host memory runs out. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_sparse_decode(const flashmla_sparse_decode_params *params);

/* Prepares a call of flashmla_sparse_decode, see flashmla_prepared. Returns what that would. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_sparse_decode_prepare(const flashmla_sparse_decode_params *params,
                                                                           flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_sparse_decode with the addresses in `params`, and a plan as
 * flashmla_dense_decode_run takes it, made with a kv_format that quantises as that of the prepared one did or did not,
 * and with lengths where that had them. Returns as flashmla_<operation>_run does, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_sparse_decode_run(const flashmla_prepared *prepared,
                                                                       const flashmla_sparse_decode_params *params);

/* ---- Merges ---- */

/* Joins the results of attention over disjoint parts of the KV cache, such as the shards of context parallelism. With
 * (out_i, lse_i) of part i, an infinite lse_i of either sign meaning an empty part whose out_i is not read:
 *     lse = ln(sum_i exp(lse_i));   out = sum_i exp(lse_i - lse) * out_i
 * All parts empty: out = 0, lse = +inf (see FLASHMLA_EMPTY_LSE_MINUS). With a NaN lse_i, which marks no empty part, the
 * row's out and lse are NaN. Parts are read as they lie, without a copy. */
typedef struct flashmla_merge_states_params {
  uint32_t struct_size; /* sizeof(flashmla_merge_states_params) */
  uint32_t flags;       /* FLASHMLA_LSE_BASE2 (for input and output), FLASHMLA_EMPTY_LSE_MINUS */
  /* num_states tensors (batch, s_q, h_q, d_v), or one (num_states, batch, s_q, h_q, d_v) where num_states is 0; bf16,
   * fp16 or float32; d_v a multiple of 8; innermost stride 1, the others and the addresses multiples of 16 bytes. At
   * most 1024 separate tensors, on CUDA 16 unless they are evenly spaced. Without the batch axis in the form of
   * variable-length queries: (total_q, h_q, d_v), lses (h_q, total_q) */
  const DLTensor *const *outs;
  const DLTensor *const *lses; /* likewise (batch, h_q, s_q) or (num_states, batch, h_q, s_q) float32, any strides */
  int32_t num_states;          /* 0: stacked */
  int32_t num_threads;         /* CPU tensors, as in flashmla_dense_decode_params */
  const DLTensor *out;         /* (batch, s_q, h_q, d_v), bf16, fp16 or float32, written; strides as outs */
  const DLTensor *lse;         /* (batch, h_q, s_q) float32, any strides, written; NULL: not wanted */
  void *stream;                /* CUstream of the device (NULL: the default stream); ignored for CPU tensors */
} flashmla_merge_states_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_MERGE_STATES_PARAMS_INIT {sizeof(flashmla_merge_states_params), 0, NULL, NULL, 0, 0, NULL, NULL, NULL}

/* Runs the merge described at flashmla_merge_states_params, and writes out and lse. It needs no scratch. Returns
 * FLASHMLA_OK, or what is wrong, as flashmla_dense_decode does; FLASHMLA_ERROR_UNSUPPORTED also for more separate
 * tensors than it takes: stack them. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_merge_states(const flashmla_merge_states_params *params);

/* Prepares a call of flashmla_merge_states, see flashmla_prepared. Returns what that would. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_merge_states_prepare(const flashmla_merge_states_params *params,
                                                                          flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_merge_states with the addresses in `params`, of all its parts. Returns as
 * flashmla_<operation>_run does, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_merge_states_run(const flashmla_prepared *prepared,
                                                                      const flashmla_merge_states_params *params);

#ifdef __cplusplus
}
#endif

#endif /* FLASHMLA_ATTENTION_H_ */
