/* plan_stamp.h - what a flashmla_plan says about the call it was made for. */
#ifndef FLASHMLA_PLAN_STAMP_H_
#define FLASHMLA_PLAN_STAMP_H_

#include "internal.h"

/* Content of flashmla_plan; the rest of it is zero. */
typedef struct fm_plan_stamp {
  uint64_t magic;
  uint32_t layout; /* of the stamp and of the schedule in its buffer: FM_PLAN_LAYOUT of the library that made it */
  uint32_t operation;
  int32_t cuda, device_id, dtype, causal, varlen;
  int32_t batch, s_q, h_q, d_qk; /* d_v follows from d_qk */
  int32_t num_blocks, page_size, h_kv, max_blocks;
  int32_t batch_invariant, num_splits; /* the plan's own: the call follows them */
  int32_t cluster, num_tiles, num_parts;
  uint64_t buffer; /* address of the schedule on the device */
  uint64_t check;  /* of all fields before it: none of a damaged plan's is used, above all not the address */
} fm_plan_stamp;

void fm_stamp_plan(const fm_problem *problem, const fm_tiling *tiling, void *buffer, flashmla_plan *plan);
/* Refuses a plan that was not made for `problem`; else copies its stamp. */
flashmla_status fm_read_plan(const flashmla_plan *plan, const fm_problem *problem, fm_plan_stamp *stamp);
/* Refuses a plan whose schedule is for other tiles or parts than the call has. */
flashmla_status fm_check_plan_tiling(const fm_plan_stamp *stamp, const fm_tiling *tiling);

#endif /* FLASHMLA_PLAN_STAMP_H_ */
