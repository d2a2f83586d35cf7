/* The entry points of merge_states work on a thread with a small stack: see stack.h. */
#include "../parts.h"
#include "stack.h"

enum { MOST_PARTS = 1024 };

static parts p;
static flashmla_prepared *prepared;
static int count; /* of parts: 2, or more than lie in a call itself */

static void merge(void) { CHECK_OK(flashmla_merge_states(&p.params)); }
static void prepare(void) { CHECK_OK(flashmla_merge_states_prepare(&p.params, &prepared)); }
static void run_it(void) { CHECK_OK(flashmla_merge_states_run(prepared, &p.params)); }
static void give_back(void) { flashmla_prepared_free(prepared); }
static void refused(void) {
  const DLTensor *last = p.lses[count - 1];
  p.lses[count - 1] = &p.result_out;
  CHECK_STATUS(flashmla_merge_states(&p.params), FLASHMLA_ERROR_SHAPE, ".ndim is 4; it must be 3 (batch, h_q, s_q)");
  p.lses[count - 1] = last;
  --p.params.num_states;
  p.out[count - 2].byte_offset = 1;
  CHECK_STATUS(flashmla_merge_states(&p.params), FLASHMLA_ERROR_ALIGNMENT, "starts at address");
}

static const entry entries[] = {{"merge_states", merge},
                                {"merge_states_prepare", prepare},
                                {"merge_states_run", run_it},
                                {"prepared_free", give_back},
                                {"a refused call", refused}};

int main(void) {
  for (count = 2; count <= MOST_PARTS; count *= 8) {
    init(&p, count, 0, 0);
    p.params.num_threads = count > 2 ? 3 : 1;
    check_stack_of(entries, sizeof entries / sizeof *entries);
  }
  return 0;
}
