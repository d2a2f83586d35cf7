/* The entry points of attention work on a thread with a small stack: see stack.h. */
#include "fixture.h"
#include "stack.h"

enum { PARTS = 20 /* more than lie in a call itself */ };

static fixture f;
static DLTensor result_out, result_lse;
static const DLTensor *outs[PARTS], *lses[PARTS];
static flashmla_merge_states_params merge;
static flashmla_prepared *prepared;
static uint64_t bytes;

static void plan_size(void) { CHECK_OK(flashmla_plan_decode_size(&f.plan_params, &bytes)); }
static void plan(void) { CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan)); }
static void plan_prepare(void) { CHECK_OK(flashmla_plan_decode_prepare(&f.plan_params, &prepared)); }
static void plan_run(void) { CHECK_OK(flashmla_plan_decode_run(prepared, &f.plan_params, &f.plan)); }
static void decode_size(void) { CHECK_OK(flashmla_dense_decode_workspace_size(&f.decode, &bytes)); }
static void decode(void) { CHECK_OK(flashmla_dense_decode(&f.decode)); }
static void decode_prepare(void) { CHECK_OK(flashmla_dense_decode_prepare(&f.decode, &prepared)); }
static void decode_run(void) { CHECK_OK(flashmla_dense_decode_run(prepared, &f.decode)); }
static void states(void) { CHECK_OK(flashmla_merge_states(&merge)); }
static void states_prepare(void) { CHECK_OK(flashmla_merge_states_prepare(&merge, &prepared)); }
static void states_run(void) { CHECK_OK(flashmla_merge_states_run(prepared, &merge)); }
static void give_back(void) { flashmla_prepared_free(prepared); }
static void refused(void) {
  merge.num_states = PARTS;
  lses[PARTS - 1] = &f.tensor[OUT];
  CHECK_STATUS(flashmla_merge_states(&merge), FLASHMLA_ERROR_SHAPE, "lses[19].ndim is 4");
}
static void facts(void) {
  flashmla_kernel_info info;
  CHECK_OK(flashmla_kernel_at(flashmla_kernel_count() - 1, &info));
  CHECK(flashmla_abi_version() == FLASHMLA_ABI_VERSION && flashmla_version() > 0 && flashmla_cpu_isa()[0] != '\0');
  CHECK_STATUS(flashmla_driver_version(NULL), FLASHMLA_ERROR_NULL_POINTER, "version is NULL; the result goes there");
}

static const entry entries[] = {{"plan_decode_size", plan_size},
                                {"plan_decode", plan},
                                {"plan_decode_prepare", plan_prepare},
                                {"plan_decode_run", plan_run},
                                {"prepared_free", give_back},
                                {"dense_decode_workspace_size", decode_size},
                                {"dense_decode", decode},
                                {"dense_decode_prepare", decode_prepare},
                                {"dense_decode_run", decode_run},
                                {"prepared_free", give_back},
                                {"merge_states", states},
                                {"merge_states_prepare", states_prepare},
                                {"merge_states_run", states_run},
                                {"prepared_free", give_back},
                                {"a refused call", refused},
                                {"facts", facts}};

int main(void) {
  const int32_t lengths[] = {700, 3, 0, 64};
  fixture_init(&f, (geometry){4, 3, 20, 2, 5, 64, 12, .dtype = BF16});
  memcpy(f.tensor[CACHE_SEQLENS].data, lengths, sizeof lengths);
  f.decode.num_threads = 1;
  fixture_use_plan(&f, 3);
  result_out = f.tensor[OUT];
  result_lse = f.tensor[LSE];
  result_out.data = aligned_alloc(64, (f.bytes[OUT] + 63) / 64 * 64);
  result_lse.data = malloc(f.bytes[LSE]);
  CHECK(result_out.data != NULL && result_lse.data != NULL);
  for (int i = 0; i < PARTS; ++i) {
    outs[i] = &f.tensor[OUT];
    lses[i] = &f.tensor[LSE];
  }
  merge = (flashmla_merge_states_params){.struct_size = sizeof merge,
                                         .outs = outs,
                                         .lses = lses,
                                         .num_states = PARTS,
                                         .num_threads = 1,
                                         .out = &result_out,
                                         .lse = &result_lse};
  check_stack_of(entries, sizeof entries / sizeof *entries);
  free(result_out.data);
  free(result_lse.data);
  fixture_free(&f);
  return 0;
}
