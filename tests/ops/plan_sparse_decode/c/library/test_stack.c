/* The entry points of plan_sparse_decode, and a call with its plan, work on a thread with a small stack: see stack.h.
 */
#include "../planned.h"
#include "stack.h"

static selections s;
static flashmla_plan_sparse_decode_params params;
static flashmla_plan plan;
static flashmla_prepared *prepared;
static uint64_t bytes;

static void size(void) { CHECK_OK(flashmla_plan_sparse_decode_size(&params, &bytes)); }
static void make(void) { CHECK_OK(flashmla_plan_sparse_decode(&params, &plan)); }
static void prepare(void) { CHECK_OK(flashmla_plan_sparse_decode_prepare(&params, &prepared)); }
static void run_it(void) { CHECK_OK(flashmla_plan_sparse_decode_run(prepared, &params, &plan)); }
static void give_back(void) { flashmla_prepared_free(prepared); }
static void decode(void) { CHECK_OK(flashmla_sparse_decode(&s.params)); }
static void refused(void) {
  flashmla_plan damaged = plan;
  flashmla_sparse_decode_params other = s.params;
  damaged.opaque[2] ^= 1;
  other.plan = &damaged;
  CHECK_STATUS(flashmla_sparse_decode(&other), FLASHMLA_ERROR_PLAN_MISMATCH, "plan is damaged");
}

static const entry entries[] = {
    {"plan_sparse_decode_size", size},  {"plan_sparse_decode", make}, {"plan_sparse_decode_prepare", prepare},
    {"plan_sparse_decode_run", run_it}, {"prepared_free", give_back}, {"sparse_decode with a plan", decode},
    {"a refused plan", refused}};

/* Lengths are zeros. */
int main(void) {
  for (uint32_t invariant = 0; invariant < 2; ++invariant) {
    init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);
    s.params.flags = invariant ? FLASHMLA_BATCH_INVARIANT : 0;
    s.params.num_threads = 1;
    s.params.plan = &plan;
    params = plan_params_of(&s, 0);
    check_stack_of(entries, sizeof entries / sizeof *entries);
  }
  return 0;
}
