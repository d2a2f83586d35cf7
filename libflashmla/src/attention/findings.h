/* findings.h - the checking mode (FLASHMLA_CHECK): values in the caller's memory that a call reads clamped or passes
 * over, lengths, offsets, page numbers and indices, are counted and told. On the CPU a call looks at them before it
 * runs; on a GPU a kernel does (dsl_kernels/core/findings.py), and a later call tells what it found. The sentences are
 * the same. */
#ifndef FLASHMLA_ATTENTION_FINDINGS_H_
#define FLASHMLA_ATTENTION_FINDINGS_H_

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "schedule/schedule.h"

/* What is looked for: the numbers of dsl_kernels/core/finding_params.py. What is found in the order of these is told
 * first. */
typedef enum fm_value {
  FM_VALUE_LENGTH,        /* cache_seqlens outside the table */
  FM_VALUE_OFFSET,        /* cu_seqlens_q outside q */
  FM_VALUE_ORDER,         /* cu_seqlens_q below the one before */
  FM_VALUE_COUNT,         /* more query tokens than max_seqlen_q */
  FM_VALUE_PAGE,          /* block_table outside the cache, within the length of a request that has query tokens */
  FM_VALUE_GLOBAL_LENGTH, /* global_seqlens below 0 */
  FM_VALUE_TOPK_LENGTH,   /* topk_length outside topk */
  FM_VALUE_EXTRA_TOPK_LENGTH,
  FM_VALUE_INDEX, /* of indices that count one outside the cache, but for FM_NO_SLOT */
  FM_VALUE_EXTRA_INDEX,
  FM_VALUES
} fm_value;
enum { FM_NO_SLOT = -1 /* the usual mark of an index that selects nothing */ };

/* How often a value was found wrong, and one of them. A GPU writes to it: what is told together must be of one writer,
 * which claims it, for all that are found between two reports, and says when it can be read. Its atomics need not be
 * any to the host, which therefore only reads what a GPU writes, and has a cache line of its own. */
typedef struct fm_finding {
  int32_t request, position; /* where: position in the request's row of the tensor, or in the tensor */
  int64_t token;             /* of indices: of the request, or in all where that is -1 */
  int64_t value, limit;      /* what stands there, and what it breaks */
  uint64_t found;            /* so many ever */
  uint64_t claimed, ready;   /* reports + 1 */
  uint64_t padding;
  uint64_t reports; /* written by the host, read by the GPU */
  uint64_t told;    /* of the found ones by these; the host's alone */
  uint64_t more_padding[6];
} fm_finding;

/* Whether the mode is on. */
bool fm_checking(void);
/* In one thread: adds a value where it is wrong. */
void fm_note(fm_finding *finding, bool wrong, int32_t request, int64_t position, int64_t value, int64_t limit);
/* The same of an index of a query token. */
void fm_note_index(fm_finding *finding, bool wrong, int32_t request, int64_t token, int64_t position, int64_t value,
                   int64_t limit);
/* The query offsets of a request, where there are some. */
void fm_note_offsets(const fm_work *work, int32_t request, fm_finding findings[FM_VALUES]);
/* Fails with the sentence about `count` wrong values; `where` is its begin. */
flashmla_status fm_fail_finding(fm_value value, const fm_finding *finding, uint64_t count, const char *where);
/* Fails with the first kind that was noted, if any was. */
flashmla_status fm_tell_noted(const fm_finding findings[FM_VALUES]);

#endif /* FLASHMLA_ATTENTION_FINDINGS_H_ */
