/* The entry points of sparse_decode work on a thread with a small stack: see stack.h. */
#include "../selections.h"
#include "stack.h"

static selections s;
static flashmla_prepared *prepared;
static uint64_t bytes;

static void size(void) { CHECK_OK(flashmla_sparse_decode_workspace_size(&s.params, &bytes)); }
static void decode(void) { CHECK_OK(flashmla_sparse_decode(&s.params)); }
static void prepare(void) { CHECK_OK(flashmla_sparse_decode_prepare(&s.params, &prepared)); }
static void run_it(void) { CHECK_OK(flashmla_sparse_decode_run(prepared, &s.params)); }
static void give_back(void) { flashmla_prepared_free(prepared); }
static void refused(void) {
  flashmla_sparse_decode_params other = s.params;
  other.extra_indices = NULL;
  CHECK_STATUS(flashmla_sparse_decode(&other), FLASHMLA_ERROR_NULL_POINTER, "extra_indices is NULL");
  other = s.params;
  other.lse = &s.tensor[OUT];
  CHECK_STATUS(flashmla_sparse_decode(&other), FLASHMLA_ERROR_SHAPE, "lse.ndim is 4; it must be 3");
}

static const entry entries[] = {{"sparse_decode_workspace_size", size}, {"sparse_decode", decode},
                                {"sparse_decode_prepare", prepare},     {"sparse_decode_run", run_it},
                                {"prepared_free", give_back},           {"a refused call", refused}};

/* Caches and indices hold zeros. */
int main(void) {
  for (int32_t format = FLASHMLA_KV_BF16; format <= FLASHMLA_KV_V41; ++format)
    for (uint32_t invariant = 0; invariant < 2; ++invariant) {
      init(&s, format, format);
      for (int i = 0; i < BATCH; ++i)
        ((int32_t *)memory[LENGTHS])[i] = ((int32_t *)memory[EXTRA_LENGTHS])[i] = INT32_MAX;
      s.params.flags = invariant ? FLASHMLA_BATCH_INVARIANT : 0;
      s.params.num_threads = 1;
      check_stack_of(entries, sizeof entries / sizeof *entries);
    }
  return 0;
}
