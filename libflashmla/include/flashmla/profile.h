/* profile.h - profiles, counters, failures on request; rules that hold for every function: flashmla.h. */
#ifndef FLASHMLA_PROFILE_H_
#define FLASHMLA_PROFILE_H_

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Profiles ---- */

/* A profile: a record of every call of every operation that succeeds, from all threads, while it runs. Off, a call pays
 * a load and a branch. On, it pays for two readings of the clock and on CUDA for two events around its launches, which
 * the first 256 calls have, the first 8 of a shape behind those, and of the others a sixteenth. The first profiled call
 * on a device makes the events of all; else a call allocates nothing and waits for nothing. Events end the overlap of a
 * call's first kernel with what is before it in the stream; on a stream that is idle, the time between launches counts.
 * Bytes are those that the call has to move, each once: caches as far as they are read, the other tensors whole. FLOP
 * are those of both products of attention, without masks. */

typedef enum flashmla_profile_flags {
  FLASHMLA_PROFILE_LENGTHS = 1 /* lengths on CUDA devices are copied to pinned host memory before the call, and bytes
                                  and FLOP count them; else the capacity of tables and selections */
} flashmla_profile_flags;

typedef struct flashmla_profile_options {
  uint32_t struct_size; /* sizeof(flashmla_profile_options) */
  uint32_t flags;       /* flashmla_profile_flags */
  int32_t max_records;  /* that are kept until they are read, up to 2^20; beyond them the oldest is dropped. 0: 16384 */
  int32_t max_pending;  /* calls on a device whose time is kept until it is read, the newest, up to 65536. 0: 2048 */
  int32_t max_lengths;  /* of a call, up to 2^20; calls with more count the capacity. 0: 512 */
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
  FLASHMLA_TIME_SKIPPED = 6   /* not timed, as are most of many calls, or given up for that of a newer call */
} flashmla_device_time;

typedef enum flashmla_call_flags {
  FLASHMLA_CALL_PREPARED = 1, /* a run of a prepared call */
  FLASHMLA_CALL_OWN_PLAN = 2, /* the call made its own schedule */
  FLASHMLA_CALL_LOADED = 4,   /* the call had to load kernels */
  FLASHMLA_CALL_COUNTED = 8,  /* bytes and FLOP count lengths as they were; else the capacity */
  FLASHMLA_CALL_BATCH_INVARIANT = 16,
  FLASHMLA_CALL_TUNED = 32 /* a tuning file has an entry for the call, and it was followed */
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
  int32_t num_splits; /* that were given with a plan, or tuned; 0: chosen; 1: nothing is split */
  int32_t capacity; /* KV items that there is room for: of a request in its table, of a query token in its selection */
  int32_t extra_topk, window;
} flashmla_call_record;
/* Initialiser: struct_size, and all else 0. */
/* clang-format off */
#define FLASHMLA_CALL_RECORD_INIT                                                                                   \
  {sizeof(flashmla_call_record), 0, 0, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
   0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
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

/* ---- Limits of devices ---- */

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

/* ---- Counters ---- */

/* Writes counters of calls, of the time in them and of failures as OpenMetrics text with its end, a NUL. They count
 * from the first call of this function on, whose time they tell: call it once when the process starts. What a binding
 * tries and then makes another way counts once. Writes *bytes, what the text needs, its end included; where that is
 * more than `size`, call again with more. Returns FLASHMLA_OK or FLASHMLA_ERROR_NULL_POINTER; `text` may be NULL where
 * size is 0.
 */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_metrics(char *text, uint64_t size, uint64_t *bytes);

/* ---- Failures on request ---- */

/* Makes a call fail as if the machine had refused it, for tests of what a host does then: of the operation of that
 * name, the one behind `after` others that get as far as their launch, from now on, on any device. It returns `status`,
 * one of 2xx or 3xx, and launches nothing. A later request takes the place of one that was not met. Returns
 * FLASHMLA_OK; FLASHMLA_ERROR_VALUE for an operation, status or number that cannot be; FLASHMLA_ERROR_NULL_POINTER. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_fail_next(const char *operation, flashmla_status status,
                                                               int32_t after);

#ifdef __cplusplus
}
#endif

#endif /* FLASHMLA_PROFILE_H_ */
