/* flashmla.h - Multi-head Latent Attention (MLA) kernels behind a plain C ABI.
 *
 * The library computes paged MLA decode attention (DeepSeek V2 / V3 / V3.2 style) on NVIDIA Hopper GPUs, with kernels
 * compiled ahead of time, and on any x86-64 or AArch64 CPU through the same entry points. It needs the C library only:
 * the CUDA driver is opened when the first CUDA tensor arrives, and never needed for CPU tensors.
 *
 * How a call works
 *   1. Describe your tensors as DLTensor (DLPack). The library never owns, copies or resizes them.
 *   2. Fill the params struct of the operation: zero it, set struct_size = sizeof(it), then the fields you use.
 *   3. Ask for the scratch size (flashmla_*_size), allocate that much on the tensors' device, and call.
 *
 * Rules that hold for every function
 *   - It returns a flashmla_status. On failure flashmla_last_error() is one sentence for this thread that names the
 *     argument, its value and the rule it breaks. After a status of 1xx or 2xx nothing was written and nothing was
 *     launched; when the driver refuses a launch (3xx), work that the call enqueued before it may run.
 *   - On CUDA tensors it enqueues work on `stream` and returns at once: it never waits for the device, never allocates
 *     device memory, and may be captured in a CUDA graph once the kernels are loaded, by a first call on the device
 *     or by a prepared one. On CPU tensors it returns when the result is there.
 *   - It never prints, aborts or exits. Values that live on the device (page numbers, lengths) can be anything: they
 *     are clamped as documented and never cause an access outside the given tensors. Where they change while a call
 *     reads them its rows are unspecified, and it ends all the same.
 *   - It computes in a floating-point mode of its own and leaves the caller's, with its exception flags, as it was. On
 *     CPU tensors subnormal numbers of bfloat16 and float32 count as 0. Cancellation (pthread_cancel) waits for its
 * end.
 *   - Every function may be called from any thread at any time. Two calls in flight must not share a workspace or
 *     outputs.
 *   - The params struct, its DLTensors with their shapes and strides, and the flashmla_plan are read before the
 * function returns. The memory that they name (elements, workspace, plan buffer) must live until the enqueued work is
 * done; with a captured graph, as long as the graph.
 *   - Outputs, workspace and plan buffer must not overlap the inputs or each other. This is not checked.
 *   - Every extent is > 0 except that batch == 0, s_q == 0 and total_q == 0 succeed and write nothing, and that a page
 *     table may have no columns: then every length counts as 0. Strides count elements, must be > 0 where the extent is
 *     > 1, and are ignored where it is 1. Of what is only read they may be 0 too, rows repeated or overlapping, but of
 * q and kv_cache on CUDA. A NULL strides pointer means compact row-major.
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

/* Version of this header: semantic versioning. flashmla_version() tells that of the loaded library. */
#define FLASHMLA_VERSION_MAJOR 0
#define FLASHMLA_VERSION_MINOR 2
#define FLASHMLA_VERSION_PATCH 0
/* The binary interface, one integer: an incompatible change bumps it, an appended field or function does not. */
#define FLASHMLA_ABI_VERSION 2

#ifndef FLASHMLA_API
#define FLASHMLA_API __attribute__((visibility("default")))
#endif
#ifndef FLASHMLA_CHECK
#define FLASHMLA_CHECK __attribute__((warn_unused_result))
#endif

/* Status codes. The numbers are pinned: they never change meaning, and new ones fill the gaps.
 * 1xx: the call is wrong. 2xx: the call is legal, this build or device cannot do it. 3xx: the machine failed. */
typedef enum flashmla_status {
  FLASHMLA_OK = 0,
  FLASHMLA_ERROR_NULL_POINTER = 100, /* a required pointer is NULL */
  FLASHMLA_ERROR_STRUCT_SIZE = 101,  /* struct_size too small or within a field, or unknown trailing bytes not zero */
  FLASHMLA_ERROR_FLAGS = 102,        /* unknown flag bits */
  FLASHMLA_ERROR_DTYPE = 110,        /* dtype not allowed here, or differs from q's */
  FLASHMLA_ERROR_SHAPE = 111,        /* rank or extent does not fit the other arguments */
  FLASHMLA_ERROR_ZERO_EXTENT = 112,  /* an extent that must be > 0 is not */
  FLASHMLA_ERROR_STRIDE = 113,    /* stride not allowed: innermost not 1, not positive, or outputs overlap themselves */
  FLASHMLA_ERROR_ALIGNMENT = 114, /* address or stride is not a multiple of 16 bytes */
  FLASHMLA_ERROR_DEVICE = 115,    /* device type not supported */
  FLASHMLA_ERROR_MIXED_DEVICES = 116,       /* tensors live on different devices */
  FLASHMLA_ERROR_OVERFLOW = 117,            /* sizes whose product does not fit the arithmetic */
  FLASHMLA_ERROR_VALUE = 118,               /* a scalar is out of its range */
  FLASHMLA_ERROR_TENSOR_VALUE = 119,        /* FLASHMLA_CHECK: a length, offset or page number is out of range */
  FLASHMLA_ERROR_WORKSPACE_TOO_SMALL = 120, /* workspace or plan buffer smaller than its size query says */
  FLASHMLA_ERROR_PLAN_MISMATCH = 121,       /* the plan was made for another call, or was never made */
  FLASHMLA_ERROR_UNSUPPORTED = 200,         /* legal, but no kernel of this library does it */
  FLASHMLA_ERROR_ARCHITECTURE = 201,        /* the GPU is not of an architecture this build has kernels for */
  FLASHMLA_ERROR_NO_KERNELS = 202,          /* the library was built without GPU kernels */
  FLASHMLA_ERROR_NO_DRIVER = 300,           /* no usable libcuda.so.1 */
  FLASHMLA_ERROR_DRIVER = 301,              /* a CUDA driver call failed */
  FLASHMLA_ERROR_OUT_OF_MEMORY = 310        /* host memory or threads ran out (CPU tensors only) */
} flashmla_status;

/* Flags of the params structs. */
typedef enum flashmla_flags {
  FLASHMLA_CAUSAL = 1,           /* bottom-right causal mask: query token s sees t < length - (s_q - 1 - s) */
  FLASHMLA_DEFAULT_SCALE = 2,    /* softmax_scale is d_qk^-0.5; the field is then ignored */
  FLASHMLA_LSE_BASE2 = 4,        /* log-sum-exps are base 2 (those given to flashmla_merge_states too), not natural */
  FLASHMLA_EMPTY_LSE_MINUS = 8,  /* the lse of a row that attends to nothing is -inf, not +inf */
  FLASHMLA_BATCH_INVARIANT = 16, /* plan: where a request is split follows from its own length alone, so the bits of its
                                    result do not depend on the requests beside it. A decode call that makes its own
                                    schedule takes it too; with a plan, the plan decides */
  FLASHMLA_PYTHON_NAMES = 256,   /* flashmla_last_error names arguments as the Python package does: num_splits instead
                                    of params.num_splits, None instead of NULL */
} flashmla_flags;

/* A plan: the split-KV schedule of one decode step, shared by the layers of that step. Opaque; made by
 * flashmla_plan_decode. It names the buffer it was made in, so it may be copied by value while that buffer lives. */
typedef struct flashmla_plan {
  uint64_t opaque[32];
} flashmla_plan;

/* Arguments of flashmla_plan_decode: the tensors of the flashmla_dense_decode call it is for. Only their shapes, dtype
 * and device are read, and the values of cache_seqlens (on the device). */
typedef struct flashmla_plan_decode_params {
  uint32_t struct_size;          /* sizeof(flashmla_plan_decode_params) */
  uint32_t flags;                /* flashmla_flags of the decode call; FLASHMLA_BATCH_INVARIANT */
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
} flashmla_plan_decode_params;

/* Paged dense MLA decode. For query token s of request i and query head h, over the attended tokens t of its KV head
 * h / (h_q / h_kv), with k_t = kv_cache[block_table[i, t / page_size], t % page_size]:
 *     x_t = softmax_scale * <q, k_t>;   lse = ln(sum_t exp(x_t));   out = sum_t exp(x_t - lse) * k_t[0 : d_v]
 * Attended are t < L, or with FLASHMLA_CAUSAL t < L - (s_q - 1 - s), where L is cache_seqlens[i] clamped to
 * [0, max_blocks * page_size]. No attended token: out = 0, lse = +inf (see FLASHMLA_EMPTY_LSE_MINUS). A page number
 * outside [0, num_blocks) within L stands for a page of zeros that takes part. A slot that a row does not attend never
 * influences the row, even when it holds NaN; table entries of pages at or beyond L may be anything.
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
  /* (batch, s_q, h_q, d_qk) or, with cu_seqlens_q, (total_q, h_q, d_qk); bf16 or fp16, on CPU also float32; d_qk / d_v
   * 576 / 512, 512 / 512 or 320 / 256; innermost stride 1, the others and the address multiples of 16 bytes */
  const DLTensor *q;
  /* (num_blocks, page_size, h_kv, d_qk) dtype of q; h_kv divides h_q; any page_size, on CUDA best a multiple of 16: the
   * fewer rows the largest power of two that divides it, the more loads; strides as q */
  const DLTensor *kv_cache;
  const DLTensor *block_table;   /* (batch, max_blocks) int32, innermost stride 1 */
  const DLTensor *cache_seqlens; /* (batch) int32, contiguous; tokens */
  /* (batch, s_q, h_q, d_v) or (total_q, h_q, d_v), dtype of q or float32, written; strides as q */
  const DLTensor *out;
  /* (batch, h_q, s_q) or (h_q, total_q) float32, any strides, written: log-sum-exp; NULL: not wanted */
  const DLTensor *lse;
  float softmax_scale; /* finite and > 0; see FLASHMLA_DEFAULT_SCALE */
  /* CPU tensors: threads to use; 0: FLASHMLA_NUM_THREADS, else the affinity mask. Results never differ. */
  int32_t num_threads;
  /* NULL: the call makes its own schedule. Rows are right with any plan that is accepted, whatever its lengths. */
  const flashmla_plan *plan;
  void *workspace;              /* scratch on q's device, 16-byte aligned */
  uint64_t workspace_size;      /* bytes; at least what flashmla_dense_decode_workspace_size says */
  void *stream;                 /* CUstream of q's device (NULL: the default stream); ignored for CPU tensors */
  const DLTensor *cu_seqlens_q; /* (batch + 1) int32, contiguous: first query token of each request; NULL: q has s_q */
  int32_t max_seqlen_q;         /* query tokens of a request at most, > 0; 0 without cu_seqlens_q. More than total_q is
                                   as good as total_q: INT32_MAX is no limit and costs nothing */
  int32_t cp_rank;              /* this shard, in [0, cp_world) */
  int32_t cp_world;             /* shards; 0: the cache is whole, and the other fields of this kind are 0 and NULL */
  int32_t cp_interleave;        /* tokens of a turn, > 0 */
  const DLTensor *global_seqlens; /* (batch) int32, contiguous; tokens of each request over all shards */
} flashmla_dense_decode_params;

/* Joins the results of attention over disjoint parts of the KV cache, such as the shards of context parallelism. With
 * (out_i, lse_i) of part i, an infinite lse_i of either sign meaning an empty part whose out_i is not read:
 *     lse = ln(sum_i exp(lse_i));   out = sum_i exp(lse_i - lse) * out_i
 * All parts empty: out = 0, lse = +inf (see FLASHMLA_EMPTY_LSE_MINUS). Parts are read as they lie, without a copy. */
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

/* A row of the kernel table: what this build can run. */
typedef struct flashmla_kernel_info {
  uint32_t struct_size;  /* sizeof(flashmla_kernel_info): set it before the call, which writes no more than that */
  const char *name;      /* unique, e.g. "dense_decode_bf16_576_cluster2" */
  const char *operation; /* "dense_decode", "plan", "combine", "merge_states" */
  const char *dtype;     /* of q, else of what it joins: "bfloat16", "float16", "float32"; "any": of no one type */
  const char *target;    /* "sm_90a" or "cpu" */
  int32_t min_driver;    /* lowest CUDA driver version that loads it, as 1000 * major + 10 * minor; 0 for the CPU */
  int32_t registers;     /* a thread at entry; 0 for the CPU */
  int32_t shared_bytes;  /* dynamic shared memory of a block; 0 for the CPU */
  int32_t threads;       /* threads of a block; 0 for the CPU */
} flashmla_kernel_info;

/* Version of the loaded library: 10000 * major + 100 * minor + patch. */
FLASHMLA_API int32_t flashmla_version(void);
/* FLASHMLA_ABI_VERSION of the loaded library; compare it with the header's before anything else. */
FLASHMLA_API int32_t flashmla_abi_version(void);
/* Static text for a status, never NULL: "shape", "workspace too small", ... */
FLASHMLA_API const char *flashmla_status_string(flashmla_status status);
/* The sentence about the last failure on this thread, valid until its next failing call; "" before the first. */
FLASHMLA_API const char *flashmla_last_error(void);
/* Name of the main kernel that this thread's last successful operation ran (see flashmla_kernel_at); "" if none.
 * The environment variable FLASHMLA_FORCE_KERNEL names the dense_decode kernel that must run on CUDA devices; a call
 * that it does not fit fails with FLASHMLA_ERROR_UNSUPPORTED. */
FLASHMLA_API const char *flashmla_last_kernel(void);

/* The environment variables are read when the library is loaded, in no call, so that calls may run beside setenv:
 * FLASHMLA_NUM_THREADS, FLASHMLA_CPU_ISA, FLASHMLA_FORCE_KERNEL, FLASHMLA_CHECK. This reads them again; it must not run
 * beside setenv.
 */
FLASHMLA_API void flashmla_read_environment(void);
/* What is wrong with their values, as they were read last; "" if nothing is. */
FLASHMLA_API const char *flashmla_environment_error(void);

/* The checking mode, FLASHMLA_CHECK=1: lengths, query offsets and page numbers out of their range, which are clamped
 * without a word otherwise, are FLASHMLA_ERROR_TENSOR_VALUE, with a sentence that names the tensor, how many there are
 * and one of them. On the CPU the plan or decode call that has them fails, before it writes. On a GPU it looks at them
 * with a kernel of its own in front of the others, and runs; the next plan or decode call on that device that finds
 * them told fails instead of running, once, or this function does, whichever comes first. Both read without waiting:
 * wait for the stream before to be sure. Each report is about one kind of value, and its count is of all calls since
 * the last one: what a plan and a decode call both read is counted by both, since it may have changed between. Replays
 * of graphs that were captured in the mode are looked at, too. The first call in the mode pins some kilobytes of host
 * memory, which it cannot during a capture. A prepared call is looked at if the mode was on when it was prepared, too.
 * Off, it costs nothing. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_check_report(void);

/* A prepared call: one that was checked, and whose kernels were loaded, once, to be run many times with other memory.
 * flashmla_<operation>_prepare takes what flashmla_<operation> takes, whose params, tensors, memory and plan may be
 * changed or freed afterwards, and runs nothing; *prepared, which is set on success alone, is host memory for
 * flashmla_prepared_free. flashmla_<operation>_run runs it with the addresses that `params` holds now: of each tensor
 * data and byte_offset, the plan, the scratch buffer with its size, and the stream. They are checked as ever, and a
 * tensor must be given where one was prepared; all else in `params` and its tensors, the device too, is not looked at
 * and stays as it was prepared. Any number of threads may run one prepared call. A run can be captured in a CUDA graph
 * without a run before it. */
typedef struct flashmla_prepared flashmla_prepared;
/* NULL is allowed. No run of it may be in progress in another thread; work that runs enqueued, and graphs that captured
 * them, need it no more. */
FLASHMLA_API void flashmla_prepared_free(flashmla_prepared *prepared);

/* Bytes of schedule memory a plan needs. Follows from shapes, flags, num_splits and device alone; data, buffer and
 * stream are not looked at. On a GPU a size query may load a kernel, to ask how many clusters of it run at once. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_plan_decode_size(const flashmla_plan_decode_params *params,
                                                                      uint64_t *bytes);
/* Makes a plan: checks, fills *plan on the host and enqueues the scheduling on the device (no synchronisation). */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_plan_decode(const flashmla_plan_decode_params *params,
                                                                 flashmla_plan *plan);
/* A prepared call of flashmla_plan_decode, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_plan_decode_prepare(const flashmla_plan_decode_params *params,
                                                                         flashmla_prepared **prepared);
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_plan_decode_run(const flashmla_prepared *prepared,
                                                                     const flashmla_plan_decode_params *params,
                                                                     flashmla_plan *plan);

/* Bytes of scratch a call needs. Follows from shapes, flags, device and the plan's num_splits alone, never from
 * lengths; data, workspace and stream are not looked at. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status
flashmla_dense_decode_workspace_size(const flashmla_dense_decode_params *params, uint64_t *bytes);
/* Runs the attention described at flashmla_dense_decode_params. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dense_decode(const flashmla_dense_decode_params *params);
/* A prepared call of flashmla_dense_decode, see flashmla_prepared. With a plan, each run takes one that was made with
 * the same num_splits and batch invariance. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dense_decode_prepare(const flashmla_dense_decode_params *params,
                                                                          flashmla_prepared **prepared);
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_dense_decode_run(const flashmla_prepared *prepared,
                                                                      const flashmla_dense_decode_params *params);

/* Runs the merge described at flashmla_merge_states_params. It needs no scratch. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_merge_states(const flashmla_merge_states_params *params);
/* A prepared call of flashmla_merge_states, see flashmla_prepared. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_merge_states_prepare(const flashmla_merge_states_params *params,
                                                                          flashmla_prepared **prepared);
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_merge_states_run(const flashmla_prepared *prepared,
                                                                      const flashmla_merge_states_params *params);

/* Waits until `stream` of CUDA device `device_id` has done all its work: for callers whose framework has no streams of
 * its own. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_stream_synchronize(int32_t device_id, void *stream);

/* Number of rows of the kernel table, and one row; an index out of range is FLASHMLA_ERROR_VALUE.
 * info->struct_size says how long the struct is; what this library does not know of it becomes 0. */
FLASHMLA_API int32_t flashmla_kernel_count(void);
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_kernel_at(int32_t index, flashmla_kernel_info *info);
/* CUDA driver version as 1000 * major + 10 * minor, or why there is none (FLASHMLA_ERROR_NO_DRIVER and the last error).
 */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_driver_version(int32_t *version);
/* Instruction set the CPU backend uses on this machine: "amx", "avx512_bf16" (both for bfloat16, other types as
 * "avx512"), "avx512", "avx2" or "portable"; FLASHMLA_CPU_ISA forces a lower one. For "amx" the process gets Linux'
 * leave to use tiles (arch_prctl) when this is first asked, or by the first call on host memory; from then on Linux
 * wants alternative signal stacks that are long enough for them (sysconf(_SC_MINSIGSTKSZ)). */
FLASHMLA_API const char *flashmla_cpu_isa(void);

/* Calls on tensor objects: for bindings of a language whose frameworks speak DLPack (in Python a PyObject *), through
 * the exchange table of the tensors' type (DLPack 1.3, the capsule `__dlpack_c_exchange_api__`), or on capsules of
 * tensors that were exported one by one. Other callers describe tensors as DLTensor and need none of this. */

/* What such a call needs of the language's runtime; behind each, the function of Python's C API. */
typedef struct flashmla_host {
  uint64_t struct_size;                         /* sizeof(flashmla_host) */
  void *(*address)(void *object);               /* an integer object as an address: PyLong_AsVoidPtr */
  void *(*integer)(int64_t value);              /* a new integer object: PyLong_FromLongLong */
  void *(*capsule)(void *object, const char *); /* what a capsule of that name holds: PyCapsule_GetPointer */
  void *(*type)(void *object);                  /* new reference: PyObject_Type */
  void *(*attribute)(void *object, void *name); /* new reference, NULL: an exception is set: PyObject_GetAttr */
  /* likewise, what a function returns for `count` arguments: PyObject_Vectorcall */
  void *(*call)(void *function, void *const *arguments, size_t count, void *null);
  void (*release)(void *object); /* of a reference: Py_DecRef */
  void *(*unlock)(void);         /* lets other threads run: PyEval_SaveThread */
  void (*lock)(void *state);     /* with what unlock returned: PyEval_RestoreThread */
  void *nothing;                 /* the object that stands for a missing argument: Py_None */
} flashmla_host;

/* What an argument of an exchange call is, and which field of the params struct it fills. */
typedef enum flashmla_exchange_kind {
  FLASHMLA_EXCHANGE_TENSOR = 0,  /* a tensor or nothing: a const DLTensor * */
  FLASHMLA_EXCHANGE_LIST = 1,    /* `count` arguments, each a tensor: a const DLTensor *const * */
  FLASHMLA_EXCHANGE_SCRATCH = 2, /* a contiguous tensor or nothing: a void *, and its bytes in the uint64_t behind it */
  FLASHMLA_EXCHANGE_ADDRESS = 3, /* an integer object or nothing: a pointer */
  FLASHMLA_EXCHANGE_RESULT = 4,  /* an integer object: no field, the second argument of run_into */
  FLASHMLA_EXCHANGE_OUTPUT = 5   /* as FLASHMLA_EXCHANGE_TENSOR, and written */
} flashmla_exchange_kind;

typedef struct flashmla_exchange_argument {
  int32_t kind;    /* a flashmla_exchange_kind */
  uint32_t offset; /* of the field in the params struct */
  int32_t count;   /* of a list */
} flashmla_exchange_argument;

/* What must hold for a call, beside what the table tells: an attribute, or what a function returns. */
typedef struct flashmla_exchange_condition {
  int32_t of_tensors; /* 1: for every tensor whose elements are no integers; 0: once a call */
  void *function;     /* called with the tensor, or with nothing; */
  void *attribute;    /* NULL: the attribute with this name object is looked at, ... */
  void *object;       /* ... of the tensor, or of this object */
  const void *value;  /* the object that must be found, or the call is UNUSUAL */
  void *unless;       /* NULL, or a function called once a call with nothing: where it returns `value`, this holds */
} flashmla_exchange_condition;

/* The call of one operation with given scalars on tensors of one type. It is read only, so any number of threads may
 * share one. Exactly one of the functions run* is set. Where params holds a tensor already, one that is passed for it
 * must have its shape, strides, dtype and device, or it is UNUSUAL. The description is trusted: offsets are those of
 * the operation's params struct, pointers are what they are said to be. */
typedef struct flashmla_exchange {
  uint64_t struct_size; /* sizeof(flashmla_exchange); with another one than the library's, all is UNUSUAL */
  const void *table;    /* the type's DLPackExchangeAPI, with a dltensor_from_py_object_no_sync; */
                        /* NULL: tensors are capsules named "dltensor_versioned" */
  const void *type;     /* with a table: the type object; another type's objects are UNUSUAL */
  const flashmla_exchange_condition *conditions; /* at most 32, looked at only with a table */
  const void *params;                          /* the params struct but for the fields that arguments fill, which are */
  uint32_t params_size;                        /* zero, or what holds where nothing is passed */
  int32_t num_objects;                         /* objects of a call, lists counted by their tensors */
  const flashmla_exchange_argument *arguments; /* in the order of the objects */
  int32_t num_arguments;
  int32_t num_conditions;
  uint32_t stream_offset;  /* with a table: of the field that gets its current stream of the first tensor's device */
  uint32_t scratch_offset; /* of the field of scratch that is made where none is passed, by the table's allocator */
  int32_t keep_scratch;    /* 1: such scratch is what the call returns, as an object; 0: it is released */
  const DLTensor *model;   /* NULL: the first tensor passed; else what stands in its place */
  flashmla_status (*size)(const void *params, uint64_t *bytes); /* of scratch; NULL: none is ever made */
  flashmla_status (*run)(const void *params);
  flashmla_status (*run_into)(const void *params, void *result);
  flashmla_status (*run_prepared)(const void *prepared, const void *params);
  flashmla_status (*run_prepared_into)(const void *prepared, const void *params, void *result);
  const void *prepared; /* the flashmla_prepared of run_prepared */
} flashmla_exchange;

typedef enum flashmla_exchange_status {
  /* What a call returns where something is not as it wants it, and nothing was done. The caller then takes the long
   * way, which says what is wrong. */
  FLASHMLA_EXCHANGE_UNUSUAL = -1
} flashmla_exchange_status;

/* Sets the runtime's functions, before the first call of any thread, and not again with others; they are copied.
 * FLASHMLA_ERROR_STRUCT_SIZE: the library was made for others, and no call may be made. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_exchange_host(const flashmla_host *functions);
/* Makes a call. `self` is an integer object with the address of a flashmla_exchange. Returns a new reference: an
 * integer object (a flashmla_status, FLASHMLA_EXCHANGE_UNUSUAL, or without a table FLASHMLA_EXCHANGE_UNUSUAL - n where
 * n bytes of scratch are needed and none was passed) or the scratch that was made and kept; NULL with an exception set
 * where the framework raised one. To be called with the runtime's lock, which is released while the operation runs. Has
 * the form of a Python function with METH_FASTCALL. */
FLASHMLA_API void *flashmla_exchange_call(void *self, void *const *objects, intptr_t count);

#ifdef __cplusplus
}
#endif
#endif /* FLASHMLA_H_ */
