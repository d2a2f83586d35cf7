/* Which plans a run of a prepared dense_decode takes. */
#include "../prepared.h"

int main(void) {
  geometry longer = SMALL;
  longer.max_blocks = 40;
  const form even = {longer, kDLCPU, 0, .flags = 0}, invariant = {longer, kDLCPU, 0, .flags = FLASHMLA_BATCH_INVARIANT};
  fixture other;
  REFUSED_RUN(PLANNED, PLAN_MISMATCH, "plan is NULL; the prepared call was with one", call.plan = NULL);
  REFUSED_RUN(PLAIN, PLAN_MISMATCH, "plan is given; the prepared call was without one", call.plan = &f.plan);
  REFUSED_RUN(PLANNED, PLAN_MISMATCH, "plan was never made", memset(&f.plan, 0, sizeof f.plan));
  REFUSED_RUN(PLANNED, PLAN_MISMATCH, "plan is damaged", f.plan.opaque[6] ^= 4);
  REFUSED_RUN(PLANNED, PLAN_MISMATCH, "plan has num_splits 2, that of the prepared call 3", fixture_use_plan(&f, 2));
  REFUSED_RUN(PLANNED, PLAN_MISMATCH, "plan has num_splits 0, that of the prepared call 3", fixture_use_plan(&f, 0));
  /* The batch-invariant mode has 3 pieces of a table of 40 pages, and could be taken for that. */
  REFUSED_RUN(((form){longer, kDLCPU, 3, .flags = 0}), PLAN_MISMATCH,
              "plan was made with FLASHMLA_BATCH_INVARIANT, the call is without it",
              f.decode.flags = FLASHMLA_BATCH_INVARIANT;
              fixture_use_plan(&f, 0));
  REFUSED_RUN(invariant, PLAN_MISMATCH, "plan was made without FLASHMLA_BATCH_INVARIANT, the call is with it",
              f.decode.flags = 0;
              fixture_use_plan(&f, 3));
  REFUSED_RUN(even, PLAN_MISMATCH, "plan was made for max_blocks 3, block_table.shape[1] is 40", init(&other, PLANNED);
              call.plan = &other.plan);
  fixture_free(&other);
  REFUSED_RUN(PLANNED, PLAN_MISMATCH, "plan was made for device cuda:0, q is on cpu:0",
              init(&other, (form){SMALL, kDLCUDA, 3, .flags = 0});
              call.plan = &other.plan);
  fixture_free(&other);
  REFUSED_RUN(even, PLAN_MISMATCH, "in 4 parts, the call's has ", fake.limits.workers = 4; fixture_use_plan(&f, 0);
              fake.limits.workers = 132);
  REFUSED_RUN(
      PLANNED, PLAN_MISMATCH,
      "the plan's buffer no longer holds its schedule (entry 1 of 25 is tile -1, unit 0): it was overwritten, or "
      "is that of another plan; make the plan again",
      ((fm_cut *)f.plan_params.buffer)[1].tile = -1);
  return 0;
}
