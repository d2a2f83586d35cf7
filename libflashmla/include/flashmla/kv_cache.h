/* kv_cache.h - formats of the KV cache, its writers and readers; rules that hold for every function: flashmla.h. */
#ifndef FLASHMLA_KV_CACHE_H_
#define FLASHMLA_KV_CACHE_H_

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Formats of the KV cache ---- */

/* How a token lies in the KV cache. A row are its NoPE columns, then its RoPE columns. Where columns are quantised they
 * are float8_e4m3fn codes; so many neighbours share a scale, and a column is code * scale; RoPE columns beside them are
 * bfloat16. A cache of such a format is bytes (uint8, int8 or float8_e4m3fn), (num_blocks, page_size, 1, bytes a
 * token), whose pages are contiguous; only the stride between pages is free, a multiple of 16 bytes. V32 (DeepSeek
 * V3.2): 656 bytes a token: 512 codes, 4 float32 scales of 128 columns, 64 RoPE columns. V32_NOPE: 528 bytes a token:
 * the same without RoPE columns. MODEL1 (DeepSeek V4): 584 bytes a token. In a page first the rows, 576 bytes each: 448
 * codes, 64 RoPE columns. Behind the last row the scales, 8 bytes a token: 7 float8_e8m0fnu of 64 columns, and a byte
 * that is not written. V41: 528 bytes a token. In a page first the rows, 512 codes each, RoPE among them; then the
 * scales, 16 bytes a token: float8_e8m0fnu of 32 columns. FP8: a code for each column, any multiple of 16 of them, and
 * one scale for the whole cache, a float32 that calls are given (descale_k). The scale that a writer chooses is max(m /
 * 448, 1e-4), where m is the largest magnitude of its columns, rounded up to a power of two but with
 * FLASHMLA_UNROUNDED_SCALES; a code is column / scale rounded to nearest, ties to even. Columns of a scale among which
 * is a NaN or an infinity are NaN, all of them: codes 0x7f, scale NaN. RoPE columns of other types are rounded to
 * bfloat16. With FP8 a code is column / descale_k, 448 with its sign for what is beyond that, and NaN, 0x7f, where the
 * quotient is NaN. All backends write the same bits. Sources: FlashMLA 9241ae3, tests/quant.py; sgl-flash-mla 1.0.0;
 * vLLM pull request 56893; vLLM's FlashMLA, flash_mla_with_kvcache_fp8 (FP8). */
typedef enum flashmla_kv_format {
  FLASHMLA_KV_BF16 = 0, /* not quantised: (num_blocks, page_size, 1, d_qk) of bf16, fp16 or float32; d_qk a multiple of
                           8; innermost stride 1, the others multiples of 16 bytes */
  FLASHMLA_KV_V32 = 1,
  FLASHMLA_KV_V32_NOPE = 2,
  FLASHMLA_KV_MODEL1 = 3,
  FLASHMLA_KV_V41 = 4,
  FLASHMLA_KV_FP8 = 5
} flashmla_kv_format;

/* Returns the bytes of a token in a flashmla_kv_format: the innermost extent of its cache. 0 for FLASHMLA_KV_BF16
 * and FLASHMLA_KV_FP8, whose rows have any length, and for a number that is no format. */
FLASHMLA_API int32_t flashmla_kv_token_bytes(int32_t kv_format);

/* Returns the columns of a row in a flashmla_kv_format, d_qk. 0 for FLASHMLA_KV_BF16 and FLASHMLA_KV_FP8,
 * whose rows have any number, and for a number that is no format. */
FLASHMLA_API int32_t flashmla_kv_columns(int32_t kv_format);

/* ---- Its writers ---- */

/* Puts new tokens into the pages of a KV cache. Token i is latent[i], followed by rope[i]; it goes to slot s =
 * slot_mapping[i], row s % page_size of page s / page_size. A slot outside [0, num_blocks * page_size), -1 say, is
 * skipped. A slot that several tokens name holds one of them whole. Nothing else of the cache is written. */
typedef struct flashmla_append_kv_params {
  uint32_t struct_size;     /* sizeof(flashmla_append_kv_params) */
  uint32_t flags;           /* FLASHMLA_UNROUNDED_SCALES */
  const DLTensor *kv_cache; /* see flashmla_kv_format; written; addresses are multiples of 16 bytes */
  /* (num_tokens, d_latent): where it is quantised bf16 or fp16, on CPU also float32, and d_latent a multiple of 16;
   * else the dtype of kv_cache and a multiple of 8. Innermost stride 1, the other and the address multiples of 16 bytes
   */
  const DLTensor *latent;
  const DLTensor *rope;         /* (num_tokens, d_rope) likewise, of latent's dtype; NULL: latent has all columns */
  const DLTensor *slot_mapping; /* (num_tokens) int32 or int64, any stride */
  int32_t kv_format;            /* flashmla_kv_format */
  int32_t num_threads;          /* CPU tensors, as in flashmla_dense_decode_params */
  void *stream;                 /* CUstream of the device (NULL: the default stream); ignored for CPU tensors */
  /* (1) float32, with FLASHMLA_KV_FP8: the scale of kv_cache, what its codes are multiplied with; NULL: 1 */
  const DLTensor *descale_k;
} flashmla_append_kv_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_APPEND_KV_PARAMS_INIT {sizeof(flashmla_append_kv_params), 0, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL}

/* Writes the tokens described at flashmla_append_kv_params. It needs no scratch. Returns FLASHMLA_OK, or what is wrong:
 * 1xx an argument; 2xx where no kernel does it; 3xx where the driver fails. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_append_kv(const flashmla_append_kv_params *params);

/* Prepares a call of flashmla_append_kv, see flashmla_prepared. Returns what that would. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_append_kv_prepare(const flashmla_append_kv_params *params,
                                                                       flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_append_kv with the addresses in `params`. Returns as flashmla_<operation>_run does,
 * see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_append_kv_run(const flashmla_prepared *prepared,
                                                                   const flashmla_append_kv_params *params);

/* Puts tokens into pages in their order: token i goes to slot i of `out`, which has at least num_tokens. Else as
 * flashmla_append_kv; FLASHMLA_KV_BF16, which does not quantise, is refused. */
typedef struct flashmla_quantize_kv_params {
  uint32_t struct_size;      /* sizeof(flashmla_quantize_kv_params) */
  uint32_t flags;            /* FLASHMLA_UNROUNDED_SCALES */
  const DLTensor *out;       /* as kv_cache in flashmla_append_kv_params */
  const DLTensor *latent;    /* as in flashmla_append_kv_params */
  const DLTensor *rope;      /* " */
  int32_t kv_format;         /* flashmla_kv_format */
  int32_t num_threads;       /* CPU tensors, as in flashmla_dense_decode_params */
  void *stream;              /* CUstream of the device (NULL: the default stream); ignored for CPU tensors */
  const DLTensor *descale_k; /* as in flashmla_append_kv_params, of out */
} flashmla_quantize_kv_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_QUANTIZE_KV_PARAMS_INIT {sizeof(flashmla_quantize_kv_params), 0, NULL, NULL, NULL, 0, 0, NULL, NULL}

/* Writes the tokens described at flashmla_quantize_kv_params. Returns as flashmla_append_kv does. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_quantize_kv(const flashmla_quantize_kv_params *params);

/* Prepares a call of flashmla_quantize_kv, see flashmla_prepared. Returns what that would. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_quantize_kv_prepare(const flashmla_quantize_kv_params *params,
                                                                         flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_quantize_kv with the addresses in `params`. Returns as flashmla_<operation>_run
 * does, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_quantize_kv_run(const flashmla_prepared *prepared,
                                                                     const flashmla_quantize_kv_params *params);

/* ---- Its readers ---- */

/* Reads the tokens of a cache as rows, in the order of their slots: row i is slot i. A column that is quantised is code
 * * scale, rounded to float32 and then to the dtype of out. */
typedef struct flashmla_dequantize_kv_params {
  uint32_t struct_size;     /* sizeof(flashmla_dequantize_kv_params) */
  uint32_t flags;           /* 0 */
  const DLTensor *kv_cache; /* see flashmla_kv_format; addresses are multiples of 16 bytes; only read */
  /* (num_tokens, d_qk) bf16, fp16 or float32, that of kv_cache where it is not quantised; at most as many rows as
   * slots; written; innermost stride 1, the other and the address multiples of 16 bytes */
  const DLTensor *out;
  int32_t kv_format;         /* flashmla_kv_format */
  int32_t num_threads;       /* CPU tensors, as in flashmla_dense_decode_params */
  void *stream;              /* CUstream of the device (NULL: the default stream); ignored for CPU tensors */
  const DLTensor *descale_k; /* as in flashmla_append_kv_params */
} flashmla_dequantize_kv_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_DEQUANTIZE_KV_PARAMS_INIT {sizeof(flashmla_dequantize_kv_params), 0, NULL, NULL, 0, 0, NULL, NULL}

/* Reads the tokens described at flashmla_dequantize_kv_params. Returns as flashmla_append_kv does. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dequantize_kv(const flashmla_dequantize_kv_params *params);

/* Prepares a call of flashmla_dequantize_kv, see flashmla_prepared. Returns what that would. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dequantize_kv_prepare(const flashmla_dequantize_kv_params *params,
                                                                           flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_dequantize_kv with the addresses in `params`. Returns as flashmla_<operation>_run
 * does, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dequantize_kv_run(const flashmla_prepared *prepared,
                                                                       const flashmla_dequantize_kv_params *params);

/* Reads tokens of requests as rows behind one another: rows cu_seqlens[i] to cu_seqlens[i + 1] - 1 of out are tokens of
 * request i from seq_starts[i] on, token t being row t % page_size of page block_table[i, t / page_size]. Columns as in
 * flashmla_dequantize_kv. A token that the table has no place for, and one of a page outside [0, num_blocks), is a row
 * of zeros. Rows of no request are not written; those that offsets out of order give to several hold unspecified
 * values. */
typedef struct flashmla_gather_kv_params {
  uint32_t struct_size;        /* sizeof(flashmla_gather_kv_params) */
  uint32_t flags;              /* 0 */
  const DLTensor *kv_cache;    /* as in flashmla_dequantize_kv_params */
  const DLTensor *block_table; /* (batch, max_blocks) int32, innermost stride 1 */
  const DLTensor *cu_seqlens;  /* (batch + 1) int32, any stride */
  const DLTensor *seq_starts;  /* (batch) int32, any stride; NULL: all 0 */
  const DLTensor *out;         /* as in flashmla_dequantize_kv_params, with any number of rows */
  int32_t kv_format;           /* flashmla_kv_format */
  int32_t num_threads;         /* CPU tensors, as in flashmla_dense_decode_params */
  void *stream;                /* CUstream of the device (NULL: the default stream); ignored for CPU tensors */
  const DLTensor *descale_k;   /* as in flashmla_append_kv_params */
} flashmla_gather_kv_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_GATHER_KV_PARAMS_INIT \
  {sizeof(flashmla_gather_kv_params), 0, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL}

/* Reads the tokens described at flashmla_gather_kv_params. Returns as flashmla_append_kv does. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_gather_kv(const flashmla_gather_kv_params *params);

/* Prepares a call of flashmla_gather_kv, see flashmla_prepared. Returns what that would. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_gather_kv_prepare(const flashmla_gather_kv_params *params,
                                                                       flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_gather_kv with the addresses in `params`. Returns as flashmla_<operation>_run does,
 * see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_gather_kv_run(const flashmla_prepared *prepared,
                                                                   const flashmla_gather_kv_params *params);

#ifdef __cplusplus
}
#endif

#endif /* FLASHMLA_KV_CACHE_H_ */
