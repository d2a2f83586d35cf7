/* stamp.h - what a flashmla_plan says about the call it was made for. */
#ifndef FLASHMLA_SCHEDULE_STAMP_H_
#define FLASHMLA_SCHEDULE_STAMP_H_

#include "core/operation.h"
#include "schedule/schedule.h"

enum { FM_PLAN_FACTS = 12 };

/* A fact that a plan and its calls must agree on, and where a call says it: without cu_seqlens_q, with them, and in
 * either where queries come in two parts, NULL if that is the same; names as in fm_fail. */
typedef struct fm_fact {
  const char *name, *argument, *varlen_argument, *parted_argument;
  bool dtype;  /* a number of fm_dtype */
  bool option; /* given or not: the name is all there is to tell */
} fm_fact;

/* The facts of one kind of plan. */
typedef struct fm_plan_kind {
  const char *name;   /* the operation that takes it, */
  const char *maker;  /* and the one that makes it */
  uint32_t operation; /* its number in stamps: pinned */
  int32_t num_facts;
  fm_fact facts[FM_PLAN_FACTS];
} fm_plan_kind;

/* Content of flashmla_plan; the rest of it is zero. */
typedef struct fm_plan_stamp {
  uint64_t magic;
  uint32_t layout; /* of the stamp and of the schedule in its buffer: FM_PLAN_LAYOUT of the library that made it */
  uint32_t operation;
  int32_t cuda, device_id, varlen;
  int32_t facts[FM_PLAN_FACTS];
  int16_t batch_invariant; /* the call's must be the same */
  int16_t full;            /* the plan's own: the call follows it */
  int32_t num_splits;      /* the plan's own: the call follows it */
  int32_t cluster, num_tiles, num_parts;
  uint64_t buffer; /* address of the schedule on the device */
  uint64_t check;  /* of all fields before it: none of a damaged plan's is used, above all not the address */
} fm_plan_stamp;

/* `facts`: of the call, in the order of the kind. */
void fm_stamp_plan(const fm_plan_kind *kind, const fm_call *call, const int32_t *facts, const fm_work *work,
                   const fm_tiling *tiling, void *buffer, flashmla_plan *plan);
/* Copies the stamp of a plan, and refuses one that was not made for such a call. */
flashmla_status fm_read_plan(const fm_plan_kind *kind, const flashmla_plan *plan, const fm_call *call,
                             const int32_t *facts, const fm_work *work, fm_plan_stamp *stamp);
/* Refuses a plan whose schedule is for other tiles or parts than the call has: with the same facts, formats differ in
 * whether they quantise, lengths in whether they are given, or FLASHMLA_FORCE_KERNEL names another kernel. */
flashmla_status fm_check_plan_tiling(const fm_plan_stamp *stamp, const fm_tiling *tiling);

#endif /* FLASHMLA_SCHEDULE_STAMP_H_ */
