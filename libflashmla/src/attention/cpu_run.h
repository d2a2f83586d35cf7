/* cpu_run.h - an attention call on host memory, wherever its keys come from: schedule, attend the parts with several
 * threads, join what parts have of a tile. */
#ifndef FLASHMLA_ATTENTION_CPU_RUN_H_
#define FLASHMLA_ATTENTION_CPU_RUN_H_

#include "attention/cpu.h"
#include "core/operation.h"

/* On the way over the KV items of a tile. */
typedef struct fm_key_walk {
  const fm_rows *rows;
  int64_t item, end; /* the next item, and where to stop: what stands behind may be garbage */
  char *room;        /* of the thread */
  char *page;        /* of a source of pages: where the page of the next item is, */
  int64_t in_page;   /* and its place there; < 0: not looked up yet */
} fm_key_walk;

/* Where the keys come from. */
typedef struct fm_key_source {
  const void *call;  /* of the operation */
  fm_dtype dtype;    /* of keys */
  size_t room_bytes; /* that a thread needs for the FM_CPU_MOST_KEYS of a step, a multiple of 64; 0: keys are used where
                        they lie */
  /* Appends the next keys to keys[have] ..., up to keys[wanted - 1]; NULL: zeros. Returns how many there are then,
   * fewer than `wanted` at the end alone. Keys in the room of the thread are valid until it is called with `have` 0,
   * and those of a step are asked for at once. */
  int32_t (*next)(const void *call, fm_key_walk *walk, const void *keys[], int32_t have, int32_t wanted);
} fm_key_source;

/* Of the backend, for a call with these rows and head sizes. */
void fm_cpu_limits(const fm_work *work, fm_limits *limits);
flashmla_status fm_run_on_cpu(const fm_call *call, const fm_attention *attention, const fm_key_source *source,
                              int32_t num_threads);

/* host_values.c: runs a call, whose `state` holds `attention`, with lengths, query offsets and, where a plan is given,
 * a checked schedule that nobody else writes. */
flashmla_status fm_with_values_taken(fm_call *call, fm_attention *attention, fm_hook *run, void *state);

#endif /* FLASHMLA_ATTENTION_CPU_RUN_H_ */
