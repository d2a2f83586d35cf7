/* flashmla.h - Multi-head Latent Attention (MLA) kernels behind a plain C ABI.
 *
 * The library computes paged MLA decode attention (DeepSeek V2 / V3 / V3.2 style), and writes and reads the KV cache,
 * on NVIDIA Hopper GPUs, with kernels compiled ahead of time, and on any x86-64 or AArch64 CPU through the same entry
 * points. It needs the C library only: the CUDA driver is opened when the first CUDA tensor arrives, and never needed
 * for CPU tensors.
 *
 * Contents
 *   in this comment: an example; how a call works; rules that hold for every function; what has to live how long;
 *   limits; environment variables
 *   Versions
 *   Statuses and flags
 *   Arguments of plans
 *   Arguments of dense decode
 *   Arguments of merges
 *   Formats of the KV cache, arguments of its writers and readers
 *   Arguments of sparse decode
 *   Arguments of pools
 *   Versions of the loaded library, statuses, errors
 *   Environment and checking mode
 *   Prepared calls
 *   Plans
 *   Dense decode
 *   Sparse decode
 *   Merges
 *   Writers and readers of the KV cache
 *   Pools of cache pages
 *   Streams, kernels, driver, CPU
 *   Profiler, counters, failures on request
 *   Calls on tensor objects, for bindings
 *
 * Example: a decode step on tensors in host memory, in C99 and C++11
 *
 *   #include <flashmla/flashmla.h>
 *   #include <stdlib.h>
 *
 *   flashmla_status decode_step(const DLTensor *q, const DLTensor *kv_cache, const DLTensor *block_table,
 *                               const DLTensor *cache_seqlens, const DLTensor *out) {
 *     flashmla_dense_decode_params p = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
 *     p.flags = FLASHMLA_CAUSAL | FLASHMLA_DEFAULT_SCALE;
 *     p.q = q, p.kv_cache = kv_cache, p.block_table = block_table, p.cache_seqlens = cache_seqlens, p.out = out;
 *     flashmla_status status = flashmla_dense_decode_workspace_size(&p, &p.workspace_size);
 *     if (p.workspace_size > 0) p.workspace = malloc((size_t)p.workspace_size);
 *     if (status == FLASHMLA_OK) status = flashmla_dense_decode(&p);
 *     free(p.workspace);
 *     return status; // flashmla_last_error() says what is wrong
 *   }
 *
 * How a call works
 *   1. Describe your tensors as DLTensor (DLPack). The library never owns, copies or resizes them.
 *   2. Fill the params struct of the operation: begin with its initialiser, FLASHMLA_<OPERATION>_PARAMS_INIT, or zero
 *      it and set struct_size = sizeof(it); then set the fields you use.
 *   3. Ask for the scratch size (flashmla_*_size), allocate that much on the tensors' device, and call. Where the size
 *      is 0, the buffer may be NULL.
 *
 * Rules that hold for every function
 *   - What can fail returns a flashmla_status. On failure flashmla_last_error() is one sentence for this thread that
 *     names the argument, its value and the rule it breaks. After a status of 1xx or 2xx nothing was written and
 *     nothing was launched; when the driver refuses a launch (3xx), work that the call enqueued before it may run.
 *     Where a function has a result beside its status, that is written on success alone.
 *   - On CUDA tensors it enqueues work on `stream` and returns at once: it never waits for the device, never allocates
 *     device memory, and may be captured in a CUDA graph (but for those of pools) once the kernels are loaded, by a
 *     first call on the device or by a prepared one. On CPU tensors it returns when the result is there.
 *   - It never prints (but with FLASHMLA_LOG=1), aborts or exits. Values that live on the device (page numbers,
 *     lengths) can be anything: they are clamped as documented and never cause an access outside the given tensors.
 *     Where they change while a call reads them its rows are unspecified, and it ends all the same.
 *   - Every function may be called from any thread at any time, but for what is said at flashmla_read_environment,
 *     flashmla_prepared_free, flashmla_pool_destroy and flashmla_exchange_host. Two calls in flight must not share a
 *     workspace or outputs; plans, prepared calls and inputs may be shared. A pool's calls wait for one another.
 *   - Outputs, workspace and plan buffer must not overlap the inputs or each other. This is not checked.
 *   - Every extent is > 0 except that batch == 0, s_q == 0, total_q == 0 and num_tokens == 0 succeed and write nothing,
 *     and that a page table may have no columns: then every length counts as 0. Strides count elements, must be > 0
 *     where the extent is > 1, and are ignored where it is 1. Of what is only read they may be 0 too, rows repeated or
 *     overlapping, but of q and kv_cache of attention on CUDA. A NULL strides pointer means compact row-major.
 *
 * What has to live how long
 *   - The params struct, its DLTensors with their shapes and strides, lists of tensors and the flashmla_plan are read
 *     before the function returns, on CUDA tensors too. They may be changed or freed then.
 *   - The memory that they name (elements, workspace, plan buffer) must live until the enqueued work is done; with a
 *     captured graph, as long as the graph. A plan buffer lives until the last work with the plan is done.
 *   - A prepared call needs nothing of what it was made from; see flashmla_prepared.
 *   - A text that a function returns is not to be freed and stays as it is, but for flashmla_last_error.
 *
 * Limits
 *   - Extents are below 2^31, and byte offsets in a tensor below 2^63; on CUDA an axis of attention's q and of
 *     dense_decode's kv_cache (its extent times its stride) spans less than 2^40 bytes, and the rows of a page of
 *     sparse_decode's caches are less than 2^31 bytes apart. A request has at most 2^31 - 1 tokens, however much its
 *     page table could hold. Tiles of query rows are numbered in 32 bits: batch * s_q * h_q * num_splits
 *     below 2^30, on CUDA with two formats 2^27 (s_q: max_seqlen_q, but at most total_q) never make too many. A merge
 *     has fewer than 2^31 rows. What is beyond these is FLASHMLA_ERROR_OVERFLOW.
 *   - A pool has at most 4096 layers and 16777215 sequences.
 *   - num_splits is at most 1024, struct_size at most 4096 bytes, a CUDA device's number below 64. A sentence is cut
 *     off at 319 bytes.
 *   - Stack: a function needs less than 16 KB of the calling thread's, beside what the CUDA driver needs. Worker
 *     threads have stacks of the process' default size.
 *   - Threads: a CPU call uses the caller's thread and workers, as many in all as num_threads, FLASHMLA_NUM_THREADS or
 *     the affinity mask says, fewer where there is little to do. Workers are kept for a second after a call, and no
 *     call waits for those of another. Where the system refuses threads, a call does with fewer. The shared library
 *     stays mapped after dlclose, since they run its code. Calls on CUDA tensors start no threads.
 *   - Signals: workers block all but those of a thread's own faults (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS)
 *     and SIGPROF, so a host may page memory in by a handler, or profile. They have no alternative signal stack. The
 *     library installs no handler. One that interrupts a call must return, not leave by longjmp or an exception, and no
 *     function of the library may be called from a handler.
 *   - Cancellation (pthread_cancel) of a thread waits for the end of the operation, size query or preparation it is in.
 *   - fork: the child may use the CPU backend. CUDA itself does not survive a fork.
 *   - Floating point: an operation computes in a mode of its own, to nearest and without traps, and leaves the caller's
 *     mode and exception flags as they were. On CPU tensors subnormal numbers of bfloat16 and float32 count as 0.
 *
 * Environment variables
 *   They are read when the library is loaded, in no call, so that calls may run beside setenv, and again by
 *   flashmla_read_environment. An empty one counts as not set. flashmla_environment_error tells which make no sense.
 *   - FLASHMLA_NUM_THREADS: threads of CPU calls whose num_threads is 0, in [1, 2^31). Anything else is ignored: the
 *     affinity mask counts.
 *   - FLASHMLA_CPU_ISA: instruction set of the CPU backend, one of those that flashmla_cpu_isa names. Another word, or
 *     a set that the machine lacks, is ignored: the best one counts.
 *   - FLASHMLA_FORCE_KERNEL: name of the dense_decode or sparse_decode kernel that must run on CUDA devices. Calls of
 *     both that it does not fit fail with FLASHMLA_ERROR_UNSUPPORTED: all of them, if there is no such kernel.
 *   - FLASHMLA_LOG: 1: each kernel that is chosen on CUDA devices is told on stderr with the reason, every such line
 *     once; 0 is nothing. Anything else is ignored.
 *   - FLASHMLA_CHECK: 1 is the checking mode, see flashmla_check_report; 0 or anything else is not.
 */
#ifndef FLASHMLA_H_
#define FLASHMLA_H_

#include <stddef.h>
#include <stdint.h>

/* DLPack's tensor description. Its own header, of any version and in any place, may come before this one or after it;
 * one of a version beyond 1.3 comes before, if its new names are used. */
#ifndef DLPACK_DLPACK_H_
#include "dlpack.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Versions ---- */

/* Version of this header: semantic versioning. flashmla_version() tells that of the loaded library. */
#define FLASHMLA_VERSION_MAJOR 0
#define FLASHMLA_VERSION_MINOR 2
#define FLASHMLA_VERSION_PATCH 0
/* As flashmla_version() tells it: #if FLASHMLA_VERSION >= 200 asks for version 0.2.0 or later. */
#define FLASHMLA_VERSION (10000 * FLASHMLA_VERSION_MAJOR + 100 * FLASHMLA_VERSION_MINOR + FLASHMLA_VERSION_PATCH)
/* The binary interface, one integer: an incompatible change bumps it, an appended field or function does not. */
#define FLASHMLA_ABI_VERSION 2

/* Attributes of functions: exported, and its result must be looked at. Define them before to have others. */
#ifndef FLASHMLA_API
#define FLASHMLA_API __attribute__((visibility("default")))
#endif
#ifndef FLASHMLA_CHECK
#define FLASHMLA_CHECK __attribute__((warn_unused_result))
#endif

/* ---- Statuses and flags ---- */

/* Status codes. The numbers are pinned: they never change meaning, and new ones fill the gaps.
 * 1xx: the call is wrong. 2xx: the call is legal, this build or device cannot do it. 3xx: the machine failed. 4xx: a
 * pool has no room for the call now; nothing has changed, and it may have room later. */
typedef enum flashmla_status {
  FLASHMLA_OK = 0,
  FLASHMLA_ERROR_NULL_POINTER = 100, /* a required pointer is NULL */
  FLASHMLA_ERROR_STRUCT_SIZE = 101,  /* struct_size too small or within a field, or unknown trailing bytes not zero */
  FLASHMLA_ERROR_FLAGS = 102,        /* unknown flag bits */
  FLASHMLA_ERROR_DTYPE = 110,        /* dtype not allowed here, or differs from q's */
  FLASHMLA_ERROR_SHAPE = 111,        /* rank or extent is negative, or does not fit the other arguments */
  FLASHMLA_ERROR_ZERO_EXTENT = 112,  /* an extent that must be > 0 is not */
  FLASHMLA_ERROR_STRIDE = 113,    /* stride not allowed: innermost not 1, not positive, or outputs overlap themselves */
  FLASHMLA_ERROR_ALIGNMENT = 114, /* address or stride is not a multiple of 16 bytes */
  FLASHMLA_ERROR_DEVICE = 115,    /* device type not supported */
  FLASHMLA_ERROR_MIXED_DEVICES = 116,       /* tensors live on different devices */
  FLASHMLA_ERROR_OVERFLOW = 117,            /* sizes whose product does not fit the arithmetic */
  FLASHMLA_ERROR_VALUE = 118,               /* a scalar is out of its range */
  FLASHMLA_ERROR_TENSOR_VALUE = 119,        /* FLASHMLA_CHECK: a length, offset, page number or index is out of range */
  FLASHMLA_ERROR_WORKSPACE_TOO_SMALL = 120, /* workspace or plan buffer smaller than its size query says */
  FLASHMLA_ERROR_PLAN_MISMATCH = 121,       /* the plan was made for another call, or was never made */
  FLASHMLA_ERROR_SEQUENCE = 130,            /* pool: unknown, freed or of another pool, or not where it should be */
  FLASHMLA_ERROR_BLOCK = 131,               /* pool: a block that is none of the pool's, not in use or not held */
  FLASHMLA_ERROR_STATE = 132,               /* pool: saved bytes are torn, foreign or contradict themselves */
  FLASHMLA_ERROR_UNSUPPORTED = 200,         /* legal, but no kernel of this library does it */
  FLASHMLA_ERROR_ARCHITECTURE = 201,        /* the GPU is not of an architecture this build has kernels for */
  FLASHMLA_ERROR_NO_KERNELS = 202,          /* the library was built without GPU kernels */
  FLASHMLA_ERROR_NO_DRIVER = 300,           /* no usable libcuda.so.1 */
  FLASHMLA_ERROR_DRIVER = 301,              /* a CUDA driver call failed */
  FLASHMLA_ERROR_CONTEXT_LOST = 302,        /* it failed for good: the CUDA context is lost, start the process again */
  FLASHMLA_ERROR_OUT_OF_MEMORY = 310,       /* host memory ran out */
  FLASHMLA_ERROR_OUT_OF_BLOCKS = 400,       /* pool: too few blocks are free or cached */
  FLASHMLA_ERROR_OUT_OF_HOST_BLOCKS = 401,  /* pool: too few blocks of host_pool are free */
  FLASHMLA_ERROR_TABLE_FULL = 402,          /* pool: no row of block_table, or no record of a sequence, is free */
  FLASHMLA_ERROR_CAPACITY = 403,            /* pool: longer than a row of block_table or slot_mapping */
  FLASHMLA_ERROR_STAGING_BUSY = 404         /* pool: all of staging holds uploads that the device has not done yet */
} flashmla_status;

/* Flags of the params structs. */
typedef enum flashmla_flags {
  FLASHMLA_CAUSAL = 1,            /* bottom-right causal mask: query token s sees t < length - (s_q - 1 - s) */
  FLASHMLA_DEFAULT_SCALE = 2,     /* softmax_scale is d_qk^-0.5; the field is then ignored */
  FLASHMLA_LSE_BASE2 = 4,         /* log-sum-exps are base 2 (those given to flashmla_merge_states too), not natural */
  FLASHMLA_EMPTY_LSE_MINUS = 8,   /* the lse of a row that attends to nothing is -inf, not +inf */
  FLASHMLA_BATCH_INVARIANT = 16,  /* the bits of a query token's row follow from the token and from what it
                                     attends, not from the requests and query tokens beside it: the same in any batch and
                                     any chunk. Partial results take at most 2 * 4 * d_v bytes a row of results and 64
                                     MiB. On CUDA no request is split where kv_cache quantises or there is a window, and
                                     no selection of sparse decode, but as num_splits says. A plan and its decode calls
                                     must agree on it */
  FLASHMLA_UNROUNDED_SCALES = 32, /* writers of the KV cache: float32 scales are not rounded up to powers of two */
  FLASHMLA_PYTHON_NAMES = 256,    /* flashmla_last_error names arguments as the Python package does: num_splits instead
                                     of params.num_splits, None instead of NULL */
} flashmla_flags;

/* ---- Arguments of plans ---- */

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
} flashmla_plan_decode_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_PLAN_DECODE_PARAMS_INIT \
  {sizeof(flashmla_plan_decode_params), 0, NULL, NULL, NULL, NULL, 0, 0, NULL, 0, NULL, NULL, 0, 0, 0, 0}

/* Arguments of flashmla_plan_sparse_decode: the tensors of the flashmla_sparse_decode call it is for, in whatever
 * formats its caches are. Only their shapes, dtype and device are read, and the values of the lengths and of
 * cu_seqlens_q (on the device). */
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
} flashmla_plan_sparse_decode_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_PLAN_SPARSE_DECODE_PARAMS_INIT \
  {sizeof(flashmla_plan_sparse_decode_params), 0, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, 0, NULL}

/* ---- Arguments of dense decode ---- */

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
 * A scale that is not finite makes rows NaN.
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
   * 512 or 320 / 256, on CPU also 288 / 256, 160 / 128 or 1088 / 1024; innermost stride 1, the others and the address
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
} flashmla_dense_decode_params;
/* Initialiser: struct_size, and all else 0. */
/* clang-format off */
#define FLASHMLA_DENSE_DECODE_PARAMS_INIT                                                                              \
  {sizeof(flashmla_dense_decode_params), 0, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL, 0, NULL, NULL, 0, 0, \
   0, 0, NULL, NULL, 0, 0, NULL, NULL}
/* clang-format on */

/* ---- Arguments of merges ---- */

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

/* ---- Formats of the KV cache, arguments of its writers and readers ---- */

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

/* ---- Arguments of sparse decode ---- */

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
} flashmla_sparse_decode_params;
/* Initialiser: struct_size, and all else 0. */
/* clang-format off */
#define FLASHMLA_SPARSE_DECODE_PARAMS_INIT                                                                            \
  {sizeof(flashmla_sparse_decode_params), 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0,   \
   0, 0, 0, 0, NULL, 0, NULL, NULL, NULL, NULL}
/* clang-format on */

/* ---- Arguments of pools ---- */

/* A pool: which blocks of a paged KV cache belong to which sequence. A block is a page of every layer. The pool hands
 * blocks out and takes them back, and keeps the tensors that attention and writers read: a row of block_table and an
 * entry of cache_seqlens for each sequence, and the slots of the tokens appended last. It allocates neither device nor
 * pinned memory; its books are host memory, allocated when it is made, so that no later call but a load allocates any.
 * Every call takes time in proportion to the blocks, sequences and tokens that it names, however large the pool is.
 *
 * Sequences have the tokens [0, length). All but the last block of a sequence are full. A block may belong to several
 * sequences, by a fork or because they begin with the same tokens; before tokens are written into one that others have,
 * too, the pool copies it in every layer (copy on write).
 *
 * Prefix cache: flashmla_pool_commit publishes full blocks under the hash of their tokens and all before them, and
 * flashmla_pool_allocate lets a new sequence begin with the published blocks that fit. The hash of a block is the
 * 128-bit SipHash-2-4, with hash_key, of the hash of the block before it (of the first: 16 zero bytes) and its token
 * ids, 8 bytes each, little-endian. Two prefixes get the same hash with probability 2^-128, to whoever does not know
 * the key. What else decides a token's row, such as an adapter or an image, has to be part of its 64-bit id. A
 * published block that no sequence has is cached: it is handed out again only where no block is free, the one first
 * that was left for the longest time; of those left together the later ones of the sequence first.
 *
 * Streams: on CUDA, calls that get `stream` enqueue work there, and swaps on a stream of the pool's own which waits for
 * what is on `stream` and which `stream` waits for before a block is used again. So all work that reads or writes the
 * caches and the arrays has to be ordered as if on one stream. During the capture of a graph no such call may be made;
 * graphs that read the arrays see in each replay what was uploaded before it. On the CPU calls copy at once.
 *
 * A status of 1xx, 2xx or 4xx changed nothing, but that a flashmla_pool_update may have done a part. After 3xx the
 * sequences are as they were, but cached blocks may be gone.
 */
typedef struct flashmla_pool flashmla_pool;

/* The name of a sequence, from flashmla_pool_allocate or flashmla_pool_fork; never 0, below 2^63, and not used again
 * for another sequence (of the pool, before its place was used 2^32 times). */
typedef uint64_t flashmla_sequence;

/* Arguments of flashmla_pool_create. */
typedef struct flashmla_pool_params {
  uint32_t struct_size; /* sizeof(flashmla_pool_params) */
  uint32_t flags;       /* 0 */
  /* num_layers tensors (num_blocks, page_size, h_kv, row), or one (num_layers, num_blocks, page_size, h_kv, row) where
   * num_layers is 0; see flashmla_kv_format. A page is contiguous; the strides between pages and layers are free,
   * multiples of 16 bytes as the addresses */
  const DLTensor *const *kv_cache;
  int32_t num_layers;            /* 0: stacked */
  int32_t kv_format;             /* flashmla_kv_format */
  const DLTensor *block_table;   /* (max_seqs, max_blocks) int32, innermost stride 1, written */
  const DLTensor *cache_seqlens; /* (max_seqs) int32, contiguous, written */
  const DLTensor *slot_mapping;  /* (max_slots) int64, contiguous, written */
  /* (num_host_blocks, block_bytes) uint8, contiguous, in host memory, which should be pinned; block_bytes: as
   * flashmla_pool_block_bytes says. Where swapped sequences go; NULL: there is no swap */
  const DLTensor *host_pool;
  /* (bytes) uint8, contiguous, in host memory, which should be pinned; bytes: at least what flashmla_pool_staging_size
   * says. NULL where that is 0 */
  const DLTensor *staging;
  int32_t max_sequences; /* on the device and swapped out; 0: max_seqs + num_host_blocks */
  uint32_t reserved;     /* 0 */
  uint64_t hash_key[2];  /* of the prefix cache; any, secret where users may choose tokens to harm others */
  void *stream;          /* on CUDA the arrays are filled there: block_table and slot_mapping with -1, lengths with 0 */
} flashmla_pool_params;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_POOL_PARAMS_INIT \
  {sizeof(flashmla_pool_params), 0, NULL, 0, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, {0, 0}, NULL}

/* What a pool's blocks are used for: num_blocks == free_blocks + cached_blocks + used_blocks. */
typedef struct flashmla_pool_usage {
  uint32_t struct_size; /* sizeof(flashmla_pool_usage): set it before the call, which writes no more than that */
  int32_t num_blocks;
  int32_t free_blocks;
  int32_t cached_blocks; /* of no sequence, published: to be shared again, or handed out when none is free */
  int32_t used_blocks;   /* of a sequence, or held */
  int32_t shared_blocks; /* of used_blocks, by more than one sequence or hold */
  int32_t num_host_blocks;
  int32_t free_host_blocks;
  int32_t max_seqs; /* rows of block_table */
  int32_t free_rows;
  int32_t sequences; /* that there are */
  int32_t swapped_sequences;
} flashmla_pool_usage;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_POOL_USAGE_INIT {sizeof(flashmla_pool_usage), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* What a pool knows of a sequence. */
typedef struct flashmla_pool_sequence {
  uint32_t struct_size; /* sizeof(flashmla_pool_sequence): set it before the call, which writes no more than that */
  int32_t row;          /* of block_table and cache_seqlens, the same while it is on the device; -1: swapped out */
  int32_t length;       /* tokens */
  int32_t num_blocks;   /* that it has, on the device or in host_pool */
  int32_t head_blocks;  /* before those, that flashmla_pool_free_head gave up */
  int32_t committed;    /* tokens that flashmla_pool_commit has seen, whole blocks */
} flashmla_pool_sequence;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_POOL_SEQUENCE_INIT {sizeof(flashmla_pool_sequence), 0, 0, 0, 0, 0}

/* ---- Versions of the loaded library, statuses, errors ---- */

/* Returns the version of the loaded library: 10000 * major + 100 * minor + patch. That of the header it is used with is
 * FLASHMLA_VERSION; a library may be older or newer than it, as long as the binary interface is the same. */
FLASHMLA_API int32_t flashmla_version(void);

/* Returns FLASHMLA_ABI_VERSION of the loaded library; compare it with the header's before anything else. It is in the
 * name of the shared library, too, so a program that was linked as usual never meets another one. */
FLASHMLA_API int32_t flashmla_abi_version(void);

/* Returns static text for a status, never NULL: "shape", "workspace too small", ...; "unknown status" for a number that
 * this library does not know. */
FLASHMLA_API const char *flashmla_status_string(flashmla_status status);

/* Returns the sentence about the last failure on this thread, valid until its next failing call or its end; "" before
 * the first. A call that succeeds leaves it. */
FLASHMLA_API const char *flashmla_last_error(void);

/* Returns the name of the main kernel that this thread's last successful operation ran (see flashmla_kernel_at); "" if
 * it ran none, as a plan for CPU tensors or a batch of 0, and before the first. Size queries, preparations and calls
 * that fail leave it. */
FLASHMLA_API const char *flashmla_last_kernel(void);

/* ---- Environment and checking mode ---- */

/* Reads the environment variables that are listed at the top again. It must not run beside setenv; it may run beside
 * calls, each of which takes the values from before or after it. */
FLASHMLA_API void flashmla_read_environment(void);

/* Returns what is wrong with the variables, as they were read last, a clause a variable; "" if nothing is. */
FLASHMLA_API const char *flashmla_environment_error(void);

/* The checking mode of dense_decode, sparse_decode and their plans, FLASHMLA_CHECK=1: lengths, query offsets and page
 * numbers out of their range, which are clamped without a word otherwise, and indices outside the cache, which select
 * nothing, are FLASHMLA_ERROR_TENSOR_VALUE, with a sentence that names the tensor, how many there are and one of them.
 * An index -1 is the usual mark of none, and is not told; nor is what no length or no request counts. On the CPU the
 * plan or decode call that has them fails, before it writes. On a GPU it looks at them with a kernel of its own in
 * front of the others, and runs; the next plan or decode call on that device that finds them told fails instead of
 * running, once, or flashmla_check_report does, whichever comes first. Both read without waiting: wait for the stream
 * before to be sure. Each report is about one kind of value, and its count is of all calls since the last one: what a
 * plan and a decode call both read is counted by both, since it may have changed between. Replays of graphs that were
 * captured in the mode are looked at, too. The first call in the mode pins some kilobytes of host memory, which it
 * cannot during a capture. A prepared call is looked at if the mode was on when it was prepared, too. Off, it costs
 * nothing. */

/* Tells what GPU calls in the checking mode have found, on any device. Returns FLASHMLA_OK, or
 * FLASHMLA_ERROR_TENSOR_VALUE for one report, which is not told again. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_check_report(void);

/* ---- Prepared calls ---- */

/* A prepared call: one that was checked, and whose kernels were loaded, once, to be run many times with other memory.
 * flashmla_<operation>_prepare takes what flashmla_<operation> takes, whose params, tensors, memory and plan may be
 * changed or freed afterwards, and runs nothing; *prepared, which is set on success alone, is host memory for
 * flashmla_prepared_free. It returns what flashmla_<operation> would, or FLASHMLA_ERROR_OUT_OF_MEMORY.
 *
 * flashmla_<operation>_run runs it with the addresses that `params` holds now: of each tensor data and byte_offset, the
 * plan, the scratch buffer with its size, and the stream. They are checked as ever, and a tensor must be given where
 * one was prepared, and only there (else FLASHMLA_ERROR_NULL_POINTER); all else in `params` but its struct_size, and in
 * its tensors, the device too, is not looked at and stays as it was prepared. It returns FLASHMLA_OK; what is wrong
 * with the addresses; FLASHMLA_ERROR_PLAN_MISMATCH for a plan of another kind; FLASHMLA_ERROR_VALUE for a prepared call
 * of another operation; or 3xx. Any number of threads may run one prepared call. A run can be captured in a CUDA graph
 * without a run before it. */
typedef struct flashmla_prepared flashmla_prepared;

/* Frees a prepared call; NULL is allowed. No run of it may be in progress in another thread; work that runs enqueued,
 * and graphs that captured them, need it no more. */
FLASHMLA_API void flashmla_prepared_free(flashmla_prepared *prepared);

/* ---- Plans ---- */

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

/* Bytes of schedule memory a plan for flashmla_sparse_decode needs. As flashmla_plan_decode_size. */
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

/* ---- Dense decode ---- */

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

/* Bytes of scratch a call needs. Follows from shapes, flags, device and the plan, and without one from whether lengths
 * are given, never from their values; data, workspace and stream are not looked at.
 * `params`: as for the call, with the plan that it will have, or without one. Writes *bytes, 0 where nothing is needed:
 * the workspace may be NULL then. Returns what flashmla_sparse_decode would return for shapes, dtypes, device, flags
 * and the plan. */
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
 * flashmla_dense_decode_run takes it. Returns as flashmla_<operation>_run does, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_sparse_decode_run(const flashmla_prepared *prepared,
                                                                       const flashmla_sparse_decode_params *params);

/* ---- Merges ---- */

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

/* ---- Writers and readers of the KV cache ---- */

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

/* Returns the bytes of a token in a flashmla_kv_format: the innermost extent of its cache. 0 for FLASHMLA_KV_BF16
 * and FLASHMLA_KV_FP8, whose rows have any length, and for a number that is no format. */
FLASHMLA_API int32_t flashmla_kv_token_bytes(int32_t kv_format);

/* Returns the columns of a row in a flashmla_kv_format, d_qk. 0 for FLASHMLA_KV_BF16 and FLASHMLA_KV_FP8,
 * whose rows have any number, and for a number that is no format. */
FLASHMLA_API int32_t flashmla_kv_columns(int32_t kv_format);

/* Writes the tokens described at flashmla_quantize_kv_params. Returns as flashmla_append_kv does. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_quantize_kv(const flashmla_quantize_kv_params *params);

/* Prepares a call of flashmla_quantize_kv, see flashmla_prepared. Returns what that would. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_quantize_kv_prepare(const flashmla_quantize_kv_params *params,
                                                                         flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_quantize_kv with the addresses in `params`. Returns as flashmla_<operation>_run
 * does, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_quantize_kv_run(const flashmla_prepared *prepared,
                                                                     const flashmla_quantize_kv_params *params);

/* Reads the tokens described at flashmla_dequantize_kv_params. Returns as flashmla_append_kv does. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dequantize_kv(const flashmla_dequantize_kv_params *params);

/* Prepares a call of flashmla_dequantize_kv, see flashmla_prepared. Returns what that would. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dequantize_kv_prepare(const flashmla_dequantize_kv_params *params,
                                                                           flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_dequantize_kv with the addresses in `params`. Returns as flashmla_<operation>_run
 * does, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dequantize_kv_run(const flashmla_prepared *prepared,
                                                                       const flashmla_dequantize_kv_params *params);

/* Reads the tokens described at flashmla_gather_kv_params. Returns as flashmla_append_kv does. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_gather_kv(const flashmla_gather_kv_params *params);

/* Prepares a call of flashmla_gather_kv, see flashmla_prepared. Returns what that would. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_gather_kv_prepare(const flashmla_gather_kv_params *params,
                                                                       flashmla_prepared **prepared);

/* Runs a prepared call of flashmla_gather_kv with the addresses in `params`. Returns as flashmla_<operation>_run does,
 * see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_gather_kv_run(const flashmla_prepared *prepared,
                                                                   const flashmla_gather_kv_params *params);

/* ---- Pools of cache pages ---- */

/* Tells the bytes of a block in all layers, a row of host_pool. Only kv_cache, num_layers and kv_format are looked at.
 * Returns FLASHMLA_OK, or what is wrong with them. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_block_bytes(const flashmla_pool_params *params,
                                                                      uint64_t *bytes);

/* Tells the bytes that staging needs; 0 on the CPU. The data of tensors, host_pool and staging are not looked at.
 * Returns FLASHMLA_OK, or what is wrong. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_staging_size(const flashmla_pool_params *params,
                                                                       uint64_t *bytes);

/* Makes a pool in which all blocks are free. The memory of all tensors has to live as long as the pool. Returns
 * FLASHMLA_OK; what is wrong with the arguments; FLASHMLA_ERROR_OUT_OF_MEMORY; or 3xx where the driver fails. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_create(const flashmla_pool_params *params,
                                                                 flashmla_pool **pool);

/* Frees a pool; NULL is allowed. No call with it may be in progress, and its swaps have to be done. */
FLASHMLA_API void flashmla_pool_destroy(flashmla_pool *pool);

/* Makes a sequence. It begins with the longest published prefix of `tokens` (num_tokens ids; NULL and 0: none) of whole
 * blocks, which is one token shorter than they are at most, so that one is left to be computed. *cached is its length.
 * Returns FLASHMLA_OK, or FLASHMLA_ERROR_TABLE_FULL. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_allocate(flashmla_pool *pool, const int64_t *tokens,
                                                                   int64_t num_tokens, flashmla_sequence *sequence,
                                                                   int64_t *cached);

/* Tells how many tokens flashmla_pool_allocate would share now. Returns FLASHMLA_OK, or FLASHMLA_ERROR_VALUE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_match(flashmla_pool *pool, const int64_t *tokens,
                                                                int64_t num_tokens, int64_t *cached);

/* Makes room for counts[i] new tokens of sequences[i] (NULL: 1 each), each named once, of all of them or of none.
 * slot_mapping then begins with the slots of these tokens, of the first sequence first, and is -1 behind them; *total
 * is their number. A count of 0 is allowed. Blocks that others have, too, are copied on `stream`. The arrays change
 * with the next flashmla_pool_update. Returns FLASHMLA_OK; FLASHMLA_ERROR_OUT_OF_BLOCKS; FLASHMLA_ERROR_CAPACITY;
 * FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_VALUE; or 3xx. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_append(flashmla_pool *pool,
                                                                 const flashmla_sequence *sequences,
                                                                 const int32_t *counts, int32_t num_sequences,
                                                                 void *stream, int64_t *total);

/* Publishes the full blocks among the first num_tokens tokens of a sequence, whose ids are `tokens`; those of blocks
 * that were committed before are not read. What is to be written there has to be enqueued. Where a block with the same
 * hash is published already, it stays that one. Returns FLASHMLA_OK; FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_VALUE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_commit(flashmla_pool *pool, flashmla_sequence sequence,
                                                                 const int64_t *tokens, int64_t num_tokens);

/* Makes a sequence with the same tokens, in the same blocks. Returns FLASHMLA_OK; FLASHMLA_ERROR_SEQUENCE;
 * FLASHMLA_ERROR_TABLE_FULL. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_fork(flashmla_pool *pool, flashmla_sequence sequence,
                                                               flashmla_sequence *child);

/* Cuts a sequence to `length` tokens, as when draft tokens were rejected: no more than it has, and no fewer than
 * flashmla_pool_free_head gave up. Returns FLASHMLA_OK; FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_VALUE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_truncate(flashmla_pool *pool, flashmla_sequence sequence,
                                                                   int64_t length);

/* Gives up the blocks all of whose tokens are before token `first`, at most the length, as a sliding window does. Their
 * entries of block_table become -1. Returns FLASHMLA_OK; FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_VALUE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_free_head(flashmla_pool *pool, flashmla_sequence sequence,
                                                                    int64_t first);

/* Ends a sequence, wherever it is. Returns FLASHMLA_OK, or FLASHMLA_ERROR_SEQUENCE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_free(flashmla_pool *pool, flashmla_sequence sequence);

/* Copies the blocks of a sequence to host_pool, each to one of its own, and gives up those on the device and its row.
 * The copies are enqueued on the pool's own stream, behind what is on `stream`. Returns FLASHMLA_OK;
 * FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_OUT_OF_HOST_BLOCKS; 3xx. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_swap_out(flashmla_pool *pool, flashmla_sequence sequence,
                                                                   void *stream);

/* Brings a sequence back, into blocks of its own, or the published ones of the same tokens where it was committed, and
 * a row that may be another one. So that the copies overlap with other work its length in cache_seqlens is 0 until a
 * call that changes it, as a flashmla_pool_append of it, of no tokens too, makes `stream` wait for them. Returns
 * FLASHMLA_OK; FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_OUT_OF_BLOCKS; FLASHMLA_ERROR_TABLE_FULL; 3xx. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_swap_in(flashmla_pool *pool, flashmla_sequence sequence,
                                                                  void *stream);

/* Brings the arrays up to date: what has changed since the last time is written, on `stream`. Returns FLASHMLA_OK;
 * FLASHMLA_ERROR_STAGING_BUSY where so many uploads are under way that staging is full: wait for the stream and call
 * again, until it is done; 3xx. What was not done is done by the next call. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_update(flashmla_pool *pool, void *stream);

/* Keeps a block that is in use from being handed out, or counts one more hold of it: for others that read it. Its
 * tokens stay as they are. Returns FLASHMLA_OK, or FLASHMLA_ERROR_BLOCK. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_hold(flashmla_pool *pool, int32_t block);

/* Ends a hold. Returns FLASHMLA_OK, or FLASHMLA_ERROR_BLOCK for a block that is not held. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_release(flashmla_pool *pool, int32_t block);

/* Tells what the blocks are used for; usage->struct_size says how long the struct is, and what this library does not
 * know of it becomes 0. Returns FLASHMLA_OK; FLASHMLA_ERROR_STRUCT_SIZE; FLASHMLA_ERROR_NULL_POINTER. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_get_usage(flashmla_pool *pool, flashmla_pool_usage *usage);

/* Tells about a sequence, as flashmla_pool_get_usage does. Returns that, or FLASHMLA_ERROR_SEQUENCE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_get_sequence(flashmla_pool *pool, flashmla_sequence sequence,
                                                                       flashmla_pool_sequence *about);

/* Writes the blocks of a sequence, num_blocks of flashmla_pool_get_sequence, in the order of their tokens, to blocks[0
 * : capacity]: numbers of pages, or of rows of host_pool where it is swapped out. Returns FLASHMLA_OK;
 * FLASHMLA_ERROR_SEQUENCE; FLASHMLA_ERROR_VALUE where there are more. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_get_blocks(flashmla_pool *pool, flashmla_sequence sequence,
                                                                     int32_t *blocks, int32_t capacity);

/* Tells the bytes that flashmla_pool_save writes now. Returns FLASHMLA_OK, or FLASHMLA_ERROR_NULL_POINTER. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_save_size(flashmla_pool *pool, uint64_t *bytes);

/* Writes the books, but neither caches nor host_pool, as bytes that flashmla_pool_load understands in another process.
 * Returns FLASHMLA_OK, or FLASHMLA_ERROR_WORKSPACE_TOO_SMALL where `bytes` are not what they need. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_save(flashmla_pool *pool, void *buffer, uint64_t bytes);

/* Takes over what flashmla_pool_save wrote, of a pool with the same blocks, arrays and hash_key, into one that has no
 * sequences and holds. The caller sees to it that caches and host_pool hold what they held. Names of its sequences are
 * those they had: a pool of this process that the caller made before may use the same ones. The bytes are looked at
 * before anything changes, and may be any. Returns FLASHMLA_OK; FLASHMLA_ERROR_STATE; FLASHMLA_ERROR_VALUE for a pool
 * that is in use; FLASHMLA_ERROR_OUT_OF_MEMORY. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_pool_load(flashmla_pool *pool, const void *buffer, uint64_t bytes);

/* ---- Streams, kernels, driver, CPU ---- */

/* Waits until `stream` (NULL: the default stream) of CUDA device `device_id` has done all its work: for callers whose
 * framework has no streams of its own. Returns FLASHMLA_OK; FLASHMLA_ERROR_NO_DRIVER; FLASHMLA_ERROR_DEVICE where there
 * is no such device; FLASHMLA_ERROR_DRIVER, also where work on the stream has failed. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_stream_synchronize(int32_t device_id, void *stream);

/* A row of the kernel table: what this build can run. */
typedef struct flashmla_kernel_info {
  uint32_t struct_size;  /* sizeof(flashmla_kernel_info): set it before the call, which writes no more than that */
  const char *name;      /* unique, e.g. "dense_decode_bf16_576_cluster2" */
  const char *operation; /* "dense_decode", "plan", "combine", "merge_states", ... */
  const char *dtype;     /* of q, else of what it joins: "bfloat16", "float16", "float32"; "any": of no one type */
  const char *target;    /* "sm_90a" or "cpu" */
  int32_t min_driver;    /* lowest CUDA driver version that loads it, as 1000 * major + 10 * minor; 0 for the CPU */
  int32_t registers;     /* a thread at entry; 0 for the CPU */
  int32_t shared_bytes;  /* dynamic shared memory of a block; 0 for the CPU */
  int32_t threads;       /* threads of a block; 0 for the CPU */
} flashmla_kernel_info;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_KERNEL_INFO_INIT {sizeof(flashmla_kernel_info), NULL, NULL, NULL, NULL, 0, 0, 0, 0}

/* Returns the number of rows of the kernel table: kernels for GPUs, whether or not there is one, then the CPU's. */
FLASHMLA_API int32_t flashmla_kernel_count(void);

/* Tells row `index` of the kernel table, in [0, flashmla_kernel_count()). info->struct_size says how long the struct
 * is; what this library does not know of it becomes 0. Returns FLASHMLA_OK; FLASHMLA_ERROR_VALUE for an index out of
 * range; FLASHMLA_ERROR_STRUCT_SIZE; FLASHMLA_ERROR_NULL_POINTER. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_kernel_at(int32_t index, flashmla_kernel_info *info);

/* Tells the CUDA driver's version as 1000 * major + 10 * minor, and opens the driver for that. Returns FLASHMLA_OK, or
 * why there is none: FLASHMLA_ERROR_NO_DRIVER and the last error. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_driver_version(int32_t *version);

/* Returns the instruction set that the CPU backend uses on this machine: "amx", "avx512_bf16" (both for bfloat16, other
 * types as "avx512"), "avx512", "avx2" or "portable"; FLASHMLA_CPU_ISA forces a lower one. For "amx" the process gets
 * Linux' leave to use tiles (arch_prctl) when this is first asked, or by the first call on host memory; from then on
 * Linux wants alternative signal stacks that are long enough for them (sysconf(_SC_MINSIGSTKSZ)). */
FLASHMLA_API const char *flashmla_cpu_isa(void);

/* ---- Profiler, counters, failures on request ---- */

/* A profile: a record of every call of every operation that succeeds, from all threads, while it runs. Off, a call pays
 * a load and a branch. On, it pays for two readings of the clock and on CUDA for two events around its launches, half
 * of the calls behind the first 256, which come from a pool that the first profiled call on a device makes; it
 * allocates nothing and waits for nothing. Events end the overlap of a call's first kernel with what is before it in
 * the stream; on a stream that is idle, the time between launches counts. Bytes are those that the call has to move,
 * each once: caches as far as they are read, the other tensors whole. FLOP are those of both products of attention,
 * without masks. */

typedef enum flashmla_profile_flags {
  FLASHMLA_PROFILE_LENGTHS = 1 /* lengths on CUDA devices are copied to pinned host memory before the call, and bytes
                                  and FLOP count them; else the capacity of tables and selections */
} flashmla_profile_flags;

typedef struct flashmla_profile_options {
  uint32_t struct_size; /* sizeof(flashmla_profile_options) */
  uint32_t flags;       /* flashmla_profile_flags */
  int32_t max_records;  /* that are kept until they are read, up to 2^20; beyond them the oldest is dropped. 0: 16384 */
  int32_t max_pending; /* calls on a device whose time is not known yet, up to 65536; those beyond have none. 0: 2048 */
  int32_t max_lengths; /* of a call, up to 2^20; calls with more count the capacity. 0: 512 */
} flashmla_profile_options;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_PROFILE_OPTIONS_INIT {sizeof(flashmla_profile_options), 0, 0, 0, 0}

/* What is known of the time that a call took on its device. */
typedef enum flashmla_device_time {
  FLASHMLA_TIME_NONE = 0,     /* CPU tensors: the time of the host is all */
  FLASHMLA_TIME_KNOWN = 1,    /* device_ns */
  FLASHMLA_TIME_PENDING = 2,  /* not done yet */
  FLASHMLA_TIME_CAPTURED = 3, /* the call was captured in a CUDA graph; its replays are not seen */
  FLASHMLA_TIME_LOST = 4,     /* more than max_pending calls were under way */
  FLASHMLA_TIME_FAILED = 5,   /* the driver refused an event: of another context than the first call's, say */
  FLASHMLA_TIME_SKIPPED = 6   /* beyond the first 256 calls of a profile half of them, at random, have no events */
} flashmla_device_time;

typedef enum flashmla_call_flags {
  FLASHMLA_CALL_PREPARED = 1, /* a run of a prepared call */
  FLASHMLA_CALL_OWN_PLAN = 2, /* the call made its own schedule */
  FLASHMLA_CALL_LOADED = 4,   /* the call had to load kernels */
  FLASHMLA_CALL_COUNTED = 8,  /* bytes and FLOP count lengths as they were; else the capacity */
  FLASHMLA_CALL_BATCH_INVARIANT = 16
} flashmla_call_flags;

/* A call. Extents that it does not have are 0. Times are in nanoseconds, -1 where there is none. */
typedef struct flashmla_call_record {
  uint32_t struct_size;     /* sizeof(flashmla_call_record): set it in the first of an array before the call */
  uint32_t flags;           /* flashmla_call_flags */
  uint64_t number;          /* of the call in the profile, in the order of their ends */
  const char *operation;    /* "dense_decode" */
  const char *kernel;       /* as flashmla_last_kernel */
  const char *dtype;        /* of the first tensor */
  void *stream;             /* as given */
  int64_t begin_ns;         /* when the call began, by CLOCK_MONOTONIC */
  int64_t host_ns;          /* time in the call, the profiler's share of it too */
  int64_t device_begin_ns;  /* when its launches began, from those of the profile's first call on the device on */
  int64_t device_ns;        /* what they took */
  uint64_t bytes, flop;     /* that the call has to move and to compute */
  uint64_t workspace_bytes; /* scratch that it needed */
  int64_t tokens;           /* KV items that it attended, or rows of a cache that it wrote or read */
  int32_t device_id;        /* of CUDA; -1: the CPU */
  int32_t device_time;      /* flashmla_device_time */
  int32_t batch, s_q, total_q, h_q, h_kv, d_qk, d_v, page_size, topk, num_tokens, num_states;
  int32_t kv_format;  /* flashmla_kv_format */
  int32_t parts;      /* of the schedule */
  int32_t cluster;    /* blocks of query rows that share the KV stream */
  int32_t num_splits; /* that were given with a plan; 0: chosen; 1: nothing is long enough to be split */
} flashmla_call_record;
/* Initialiser: struct_size, and all else 0. */
/* clang-format off */
#define FLASHMLA_CALL_RECORD_INIT                                                                                   \
  {sizeof(flashmla_call_record), 0, 0, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
   0, 0, 0, 0, 0, 0, 0}
/* clang-format on */

/* How the profile stands. */
typedef struct flashmla_profile_state {
  uint32_t struct_size; /* sizeof(flashmla_profile_state): set it before the call */
  int32_t running;      /* 1: calls are recorded */
  int32_t count;        /* records that were read now */
  uint32_t reserved;    /* 0 */
  uint64_t calls;       /* that were recorded in all */
  uint64_t dropped;     /* of them, for want of room */
  uint64_t left;        /* that were not read yet */
} flashmla_profile_state;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_PROFILE_STATE_INIT {sizeof(flashmla_profile_state), 0, 0, 0, 0, 0, 0}

/* Begins a profile, which a process has one of at a time; records of the last one are gone. Returns FLASHMLA_OK;
 * FLASHMLA_ERROR_VALUE while one runs, or for a number out of range; FLASHMLA_ERROR_FLAGS;
 * FLASHMLA_ERROR_OUT_OF_MEMORY. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_profile_start(const flashmla_profile_options *options);

/* Ends the profile, if one runs. Its records can be read until another one begins. */
FLASHMLA_API void flashmla_profile_stop(void);

/* Takes the oldest records out, at most `most` of them, and up to the first whose device time is pending: it waits for
 * nothing. `records` may be NULL where most is 0. Returns FLASHMLA_OK and what state->count says;
 * FLASHMLA_ERROR_VALUE for a negative number; FLASHMLA_ERROR_NULL_POINTER; FLASHMLA_ERROR_STRUCT_SIZE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_profile_read(flashmla_call_record *records, int32_t most,
                                                                  flashmla_profile_state *state);

/* What a CUDA device can do at its highest clocks, by its own attributes. */
typedef struct flashmla_device_limits {
  uint32_t struct_size;    /* sizeof(flashmla_device_limits): set it before the call */
  int32_t processors;      /* multiprocessors */
  int64_t l2_bytes;        /* of the L2 cache */
  double bytes_per_second; /* of device memory: memory clock times bus width */
  double flop_per_second;  /* of tensor cores in bf16 or fp16, dense; 0: of an architecture that is not known */
} flashmla_device_limits;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_DEVICE_LIMITS_INIT {sizeof(flashmla_device_limits), 0, 0, 0, 0}

/* Tells the limits of a CUDA device. Returns FLASHMLA_OK; FLASHMLA_ERROR_NO_DRIVER; FLASHMLA_ERROR_DEVICE where there
 * is no such device; FLASHMLA_ERROR_DRIVER; FLASHMLA_ERROR_NULL_POINTER; FLASHMLA_ERROR_STRUCT_SIZE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_device_limits_of(int32_t device_id,
                                                                      flashmla_device_limits *limits);

/* Writes counters of calls, of the time in them and of failures as OpenMetrics text with its end, a NUL. They count
 * from the first call of this function on, whose time they tell: call it once when the process starts. What a binding
 * tries and then makes another way counts once. Writes *bytes, what the text needs, its end included; where that is
 * more than `size`, call again with more. Returns FLASHMLA_OK or FLASHMLA_ERROR_NULL_POINTER; `text` may be NULL where
 * size is 0.
 */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_metrics(char *text, uint64_t size, uint64_t *bytes);

/* Makes a call fail as if the machine had refused it, for tests of what a host does then: of the operation of that
 * name, the one behind `after` others that get as far as their launch, from now on, on any device. It returns `status`,
 * one of 2xx or 3xx, and launches nothing. A later request takes the place of one that was not met. Returns
 * FLASHMLA_OK; FLASHMLA_ERROR_VALUE for an operation, status or number that cannot be; FLASHMLA_ERROR_NULL_POINTER. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_fail_next(const char *operation, flashmla_status status,
                                                               int32_t after);

#ifdef __cplusplus
}
#endif

/* ---- Calls on tensor objects, for bindings ---- */

/* flashmla_exchange_call and what belongs to it; who describes tensors as DLTensor needs none of it. */
#include "exchange.h"

#endif /* FLASHMLA_H_ */
