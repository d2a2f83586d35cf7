/* The entry points of attention work on a thread with a small stack: see stack.h. */
#include "fixture.h"
#include "stack.h"

static fixture f;
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
static void give_back(void) { flashmla_prepared_free(prepared); }
static void refused(void) {
  f.decode.lse = &f.tensor[OUT];
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_SHAPE, "lse.ndim is 4; it must be 3");
}
static void facts(void) {
  flashmla_kernel_info info = {.struct_size = sizeof info};
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
                                {"a refused call", refused},
                                {"facts", facts}};

int main(void) {
  const int32_t lengths[] = {700, 3, 0, 64};
  fixture_init(&f, (geometry){4, 3, 20, 2, 5, 64, 12, .dtype = BF16});
  memcpy(f.tensor[CACHE_SEQLENS].data, lengths, sizeof lengths);
  f.decode.num_threads = 1;
  fixture_use_plan(&f, 3);
  check_stack_of(entries, sizeof entries / sizeof *entries);
  fixture_free(&f);
  return 0;
}
