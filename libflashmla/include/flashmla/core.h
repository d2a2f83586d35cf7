/* core.h - what all of flashmla.h shares: versions, statuses, flags, prepared calls, kernels. */
#ifndef FLASHMLA_CORE_H_
#define FLASHMLA_CORE_H_

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

/* Returns the version of the loaded library: 10000 * major + 100 * minor + patch. That of the header it is used with is
 * FLASHMLA_VERSION; a library may be older or newer than it, as long as the binary interface is the same. */
FLASHMLA_API int32_t flashmla_version(void);

/* Returns FLASHMLA_ABI_VERSION of the loaded library; compare it with the header's before anything else. It is in the
 * name of the shared library, too, so a program that was linked as usual never meets another one. */
FLASHMLA_API int32_t flashmla_abi_version(void);

/* ---- Statuses and errors ---- */

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

/* ---- Flags ---- */

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

/* ---- Environment and checking mode ---- */

/* Reads again the environment variables that flashmla.h lists. It must not run beside setenv; it may run beside
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

#ifdef __cplusplus
}
#endif

#endif /* FLASHMLA_CORE_H_ */
