/* plan.h - the schedule of attention calls: one that a plan holds, for calls that are given one and for those that make
 * it, or the call's own. */
#ifndef FLASHMLA_ATTENTION_PLAN_H_
#define FLASHMLA_ATTENTION_PLAN_H_

#include "attention/attention.h"
#include "core/operation.h"

/* The plan that a call is given, and what it has to be for. */
typedef struct fm_given_plan {
  const fm_plan_kind *kind;
  const flashmla_plan *plan; /* NULL: none */
  int32_t facts[FM_PLAN_FACTS];
} fm_given_plan;

/* Of a call that may be given a plan. In check_shapes attention->own_plan is set; in lay_out come, in this order, the
 * plan, the end of an empty call, the tiling, and the layout; in bind the plan that a prepared call is given now, and
 * addresses. */
flashmla_status fm_use_plan(const fm_given_plan *given, const fm_call *call, fm_attention *attention);
flashmla_status fm_lay_out_attention(fm_call *call, fm_attention *attention);
flashmla_status fm_use_plan_again(const fm_given_plan *given, const fm_call *call, fm_attention *attention);
void fm_bind_schedule(void *workspace, fm_attention *attention);

/* Of a call that makes a plan: its own scalars, in read_form; the work of check_shapes; in lay_out what an empty call's
 * stamp says, and behind the tiling the layout; the result, before anything is done, and after success. */
flashmla_status fm_check_splits(int32_t num_splits, uint32_t flags);
void fm_begin_plan(int32_t num_splits, fm_call *call, fm_attention *attention);
flashmla_status fm_lay_out_plan(fm_call *call, fm_attention *attention);
flashmla_status fm_check_plan_result(const flashmla_plan *plan);
void fm_fill_plan(const fm_given_plan *made, const fm_call *call, const fm_attention *attention, void *buffer);

#endif /* FLASHMLA_ATTENTION_PLAN_H_ */
