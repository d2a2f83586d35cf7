/* The entry points of merge_states work on a thread with a small stack: see stack.h. */
#include "../parts.h"
#include "stack.h"

enum { PARTS = 20 /* more than lie in a call itself */ };

static parts p;
static flashmla_prepared *prepared;

static void merge(void) { CHECK_OK(flashmla_merge_states(&p.params)); }
static void prepare(void) { CHECK_OK(flashmla_merge_states_prepare(&p.params, &prepared)); }
static void run_it(void) { CHECK_OK(flashmla_merge_states_run(prepared, &p.params)); }
static void give_back(void) { flashmla_prepared_free(prepared); }
static void refused(void) {
  p.lses[PARTS - 1] = &p.result_out;
  CHECK_STATUS(flashmla_merge_states(&p.params), FLASHMLA_ERROR_SHAPE, "lses[19].ndim is 4");
}

static const entry entries[] = {{"merge_states", merge},
                                {"merge_states_prepare", prepare},
                                {"merge_states_run", run_it},
                                {"prepared_free", give_back},
                                {"a refused call", refused}};

int main(void) {
  init(&p, PARTS, 0, 0);
  p.params.num_threads = 1;
  check_stack_of(entries, sizeof entries / sizeof *entries);
  return 0;
}
