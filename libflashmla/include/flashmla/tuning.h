/* tuning.h - tuning files: choices that were measured; rules that hold for every function: flashmla.h. */
#ifndef FLASHMLA_TUNING_H_
#define FLASHMLA_TUNING_H_

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Tuning files ---- */

/* Which kernel a decode call takes, into how many parts its work is cut and what stays in the L2 cache follow from
 * rules that are good for most shapes. A tuning file says for shapes that were measured what is faster on that machine;
 * `python -m flashmla tune` measures and writes one. Calls of dense_decode and sparse_decode on a CUDA device and their
 * plans ask it. Results stay within the documented errors: cuts move, and roundings with them.
 *   - A file is for one kind of GPU (name, architecture, processors), one driver and the kernels of one build. It is
 *     text of which every byte is looked at: a torn, foreign or damaged one is refused as a whole, by name. No call
 *     fails for it; calls are as without a file, and flashmla_tuning_tell says why.
 *   - An entry that a call cannot follow is ignored: its kernel does not do the call, or the workspace is too small for
 *     its splits. Size queries tell what is enough with the file and without, so a workspace stays large enough when
 *     another file is loaded. Batch-invariant calls, work on two formats and calls on the CPU ask no file.
 *   - num_splits of plan_decode and plan_sparse_decode that is not 0 counts; of a call with a plan the plan's splits
 *     and tiles count, whatever is loaded by then. A prepared call stays as it was prepared.
 *   - A plan of sparse_decode does not know the format of the cache: it follows entries that all formats agree on.
 * Tables stay in memory, each content once, since a call may be reading one. */

/* What the L2 cache does with KV that a call reads. */
typedef enum flashmla_l2_policy {
  FLASHMLA_L2_RULE = 0,         /* the library's rule */
  FLASHMLA_L2_EVICT_NORMAL = 1, /* as anything else */
  FLASHMLA_L2_EVICT_FIRST = 2   /* leaves first: q and out stay */
} flashmla_l2_policy;

/* What was found for calls of one shape, with batches and capacities of a range. */
typedef struct flashmla_tuning_entry {
  uint32_t struct_size;         /* sizeof(flashmla_tuning_entry): set it before the call, in the first of an array */
  int32_t kv_format;            /* flashmla_kv_format */
  const char *operation;        /* "dense_decode" or "sparse_decode" */
  const char *dtype;            /* of q: "bfloat16" */
  const char *kernel;           /* its name, as flashmla_kernel_at has it; NULL or "-": by rule */
  int32_t d_qk, h_q, h_kv, s_q; /* with cu_seqlens_q s_q is max_seqlen_q */
  int32_t varlen;               /* 1: with cu_seqlens_q */
  int32_t page_size;            /* 0 for sparse_decode, whose choices do not depend on it */
  int32_t window, extra_topk;   /* 0: none */
  int32_t batch_from, batch_to; /* the first and the last one */
  int32_t capacity_from, capacity_to; /* columns of the table times page_size; for sparse_decode topk */
  int32_t num_splits;                 /* 0: the scheduler's cuts */
  int32_t l2_policy;                  /* flashmla_l2_policy */
  int32_t ns, default_ns;             /* times of a call as they were measured, with this and without; 0: not known */
} flashmla_tuning_entry;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_TUNING_ENTRY_INIT \
  {sizeof(flashmla_tuning_entry), 0, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* What is loaded. */
typedef struct flashmla_tuning_state {
  uint32_t struct_size; /* sizeof(flashmla_tuning_state): set it before the call */
  int32_t count;        /* entries; 0 of a refused file */
  const char *path;     /* "": none */
  const char *problem;  /* why it is not used, a clause: "is cut off: ..."; "": it is used */
  const char *gpu;      /* that it was measured on */
  const char *kernels;  /* those of this library: a digest, or "none" */
} flashmla_tuning_state;
/* Initialiser: struct_size, and all else 0. */
#define FLASHMLA_TUNING_STATE_INIT {sizeof(flashmla_tuning_state), 0, NULL, NULL, NULL, NULL}

/* Takes the file instead of what is loaded; NULL or "" forgets that. Calls in other threads have the one or the other.
 * Returns FLASHMLA_OK; FLASHMLA_ERROR_STATE for a file that cannot be read, is none, torn, damaged, or for other
 * kernels or for none of the devices that there are, and what was loaded stays; FLASHMLA_ERROR_OUT_OF_MEMORY. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_tuning_load(const char *path);

/* Tells what is loaded, and whether calls on the device use it; device_id -1: whether the file was refused. Returns
 * FLASHMLA_OK; FLASHMLA_ERROR_NULL_POINTER; FLASHMLA_ERROR_STRUCT_SIZE; FLASHMLA_ERROR_OUT_OF_MEMORY. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_tuning_tell(int32_t device_id, flashmla_tuning_state *state);

/* Tells entry `index` of what is loaded, in [0, state->count). Returns FLASHMLA_OK; FLASHMLA_ERROR_VALUE for an index
 * out of range; FLASHMLA_ERROR_NULL_POINTER; FLASHMLA_ERROR_STRUCT_SIZE. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_tuning_at(int32_t index, flashmla_tuning_entry *entry);

/* Writes a tuning file for a device and the kernels of this library, whole or not at all, also where other threads and
 * processes write it; of a link the file that it leads to. Entries of a shape should not have ranges that overlap: the
 * one counts that begins first. Returns FLASHMLA_OK; FLASHMLA_ERROR_VALUE for a field that is out of range, more than
 * 16384 entries, or a path that cannot be written; FLASHMLA_ERROR_NO_DRIVER; FLASHMLA_ERROR_DEVICE;
 * FLASHMLA_ERROR_DRIVER; FLASHMLA_ERROR_NULL_POINTER; FLASHMLA_ERROR_STRUCT_SIZE, also where an entry of a newer header
 * says something in fields that this library does not have; FLASHMLA_ERROR_OUT_OF_MEMORY. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_tuning_save(const char *path, int32_t device_id,
                                                                 const flashmla_tuning_entry *entries, int32_t count);

#ifdef __cplusplus
}
#endif

#endif /* FLASHMLA_TUNING_H_ */
