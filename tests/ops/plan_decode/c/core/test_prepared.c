/* Prepared calls of plan_decode: each run makes the plan that the plain call makes, in the memory it is given now. */
#include "refused.h"

static void init(fixture *f, geometry g, int32_t device, int32_t num_splits, uint32_t flags) {
  fixture_init(f, g);
  fixture_set_device(f, device, 0);
  f->plan_params.num_splits = num_splits;
  f->plan_params.flags = flags;
  fixture_allocate_plan_buffer(f);
  int32_t *lengths = f->tensor[CACHE_SEQLENS].data;
  for (int64_t i = 0; i < g.batch; ++i) lengths[i] = (int32_t)(50 * i);
}

/* A prepared call, all of whose arguments are gone. */
static flashmla_prepared *prepared_of(geometry g, int32_t device, int32_t num_splits, uint32_t flags) {
  fixture *f = malloc(sizeof *f);
  CHECK(f != NULL);
  init(f, g, device, num_splits, flags);
  flashmla_prepared *prepared = NULL;
  fake.prepares = 0;
  CHECK_OK(flashmla_plan_decode_prepare(&f->plan_params, &prepared));
  CHECK(prepared != NULL && fake_launches() == 0 && fake.prepares == (device == kDLCUDA));
  fixture_free(f);
  free(f);
  fake.prepares = 0;
  return prepared;
}

static void run_is_the_call(geometry g, int32_t device, int32_t num_splits, uint32_t flags) {
  flashmla_prepared *prepared = prepared_of(g, device, num_splits, flags);
  fixture f;
  init(&f, g, device, num_splits, flags);
  f.plan_params.stream = &f;
  f.tensor[CACHE_SEQLENS].byte_offset = 4; /* the last length is one of the padding */
  CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan));
  const fm_dense_decode plain = fake.plan;
  void *schedule = malloc(f.plan_params.buffer_size);
  CHECK(schedule != NULL);
  memcpy(schedule, f.plan_params.buffer, f.plan_params.buffer_size);
  memset(f.plan_params.buffer, 0, f.plan_params.buffer_size);
  memset(&fake.plan, 0, sizeof fake.plan);
  fake_launches();
  fake.prepares = 0;

  for (int i = 0; i < TENSORS; ++i) {
    f.tensor[i].shape = f.tensor[i].strides = NULL;
    f.tensor[i].ndim = -1;
  }
  const int memories[] = {Q, KV_CACHE, BLOCK_TABLE}; /* only their shapes matter */
  for (int i = 0; i < 3; ++i) f.tensor[memories[i]].byte_offset = 1;
  f.plan_params.flags = UINT32_MAX;
  f.plan_params.num_splits = f.plan_params.max_seqlen_q = -1;
  flashmla_plan plan;
  CHECK_OK(flashmla_plan_decode_run(prepared, &f.plan_params, &plan));
  CHECK(memcmp(&plan, &f.plan, sizeof plan) == 0);
  CHECK(fake.plan.stream == &f && fake.again && fake.prepares == 0);
  CHECK(memcmp(&fake.plan.attention.schedule, &plain.attention.schedule, sizeof plain.attention.schedule) == 0);
  CHECK(fake.plan.attention.work.lengths == plain.attention.work.lengths);
  CHECK(fake.plan.attention.work.cu_seqlens_q == plain.attention.work.cu_seqlens_q);
  if (device == kDLCPU) CHECK(memcmp(schedule, f.plan_params.buffer, f.plan_params.buffer_size) == 0);
  CHECK((device == kDLCPU ? fake.cpu_plans : fake.cuda_plans) == 1 && fake_launches() == 1);
  CHECK(strcmp(flashmla_last_kernel(), device == kDLCPU ? "" : "fake_plan") == 0);
  flashmla_prepared_free(prepared);
  free(schedule);
  fixture_free(&f);
}

/* One change to `call`; the plan stays as it was. */
#define REFUSED_RUN(geometry, status, part, change)                                                  \
  do {                                                                                               \
    flashmla_prepared *prepared = prepared_of(geometry, kDLCUDA, 0, 0);                              \
    fixture f;                                                                                       \
    init(&f, geometry, kDLCUDA, 0, 0);                                                               \
    flashmla_plan_decode_params call = f.plan_params;                                                \
    memset(&f.plan, OUTPUT_FILL, sizeof f.plan);                                                     \
    const flashmla_plan before = f.plan;                                                             \
    change;                                                                                          \
    CHECK_STATUS(flashmla_plan_decode_run(prepared, &call, &f.plan), FLASHMLA_ERROR_##status, part); \
    CHECK(memcmp(&before, &f.plan, sizeof before) == 0);                                             \
    no_run(&f);                                                                                      \
    flashmla_prepared_free(prepared);                                                                \
    fixture_free(&f);                                                                                \
  } while (0)

static void refused(void) {
  REFUSED_RUN(SMALL, NULL_POINTER, "q is NULL; the prepared call was with it", call.q = NULL);
  REFUSED_RUN(SMALL, NULL_POINTER, "cache_seqlens is NULL; the prepared call was with it", call.cache_seqlens = NULL);
  REFUSED_RUN(SMALL, NULL_POINTER, "cu_seqlens_q is given", call.cu_seqlens_q = &f.tensor[CU_SEQLENS_Q]);
  REFUSED_RUN(SMALL_VARLEN, NULL_POINTER, "cu_seqlens_q is NULL", call.cu_seqlens_q = NULL);
  REFUSED_RUN(SMALL_VARLEN, ALIGNMENT, "cu_seqlens_q starts at address", f.tensor[CU_SEQLENS_Q].byte_offset = 3);
  REFUSED_RUN(SMALL, ALIGNMENT, "cache_seqlens starts at address", f.tensor[CACHE_SEQLENS].byte_offset = 2);
  REFUSED_RUN(SMALL, NULL_POINTER, "params.buffer is NULL", call.buffer = NULL);
  REFUSED_RUN(SMALL, ALIGNMENT, "params.buffer is", call.buffer = (char *)call.buffer + 4);
  REFUSED_RUN(SMALL, WORKSPACE_TOO_SMALL, "params.buffer_size is", --call.buffer_size);
  REFUSED_RUN(SMALL, STRUCT_SIZE, "params.struct_size is 71", call.struct_size = 71);
}

static void pointers(void) {
  fixture f;
  init(&f, SMALL, kDLCPU, 0, 0);
  flashmla_prepared *prepared = prepared_of(SMALL, kDLCPU, 0, 0), *untouched = (void *)&f;
  CHECK_STATUS(flashmla_plan_decode_run(prepared, &f.plan_params, NULL), FLASHMLA_ERROR_NULL_POINTER,
               "plan is NULL; the result goes there");
  CHECK_STATUS(flashmla_plan_decode_run(prepared, NULL, &f.plan), FLASHMLA_ERROR_NULL_POINTER, "params is NULL");
  CHECK_STATUS(flashmla_plan_decode_run(NULL, &f.plan_params, &f.plan), FLASHMLA_ERROR_NULL_POINTER,
               "prepared is NULL; flashmla_plan_decode_prepare makes it");
  CHECK_STATUS(flashmla_plan_decode_prepare(&f.plan_params, NULL), FLASHMLA_ERROR_NULL_POINTER, "prepared is NULL");
  f.plan_params.num_splits = -1;
  CHECK_STATUS(flashmla_plan_decode_prepare(&f.plan_params, &untouched), FLASHMLA_ERROR_VALUE, "num_splits is -1");
  CHECK(untouched == (void *)&f && fake_launches() == 0);
  flashmla_prepared_free(prepared);
  fixture_free(&f);
}

/* The plan of an empty call is the one that the plain call makes: a stamp without a schedule. */
static void empty(void) {
  fixture f;
  fixture_init(&f, (geometry){4, 0, 6, 2, 5, 64, 3, .dtype = FP16});
  fixture_set_device(&f, kDLCUDA, 99);
  flashmla_prepared *prepared;
  flashmla_plan plan;
  CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan));
  CHECK_OK(flashmla_plan_decode_prepare(&f.plan_params, &prepared));
  CHECK_OK(flashmla_plan_decode_run(prepared, &f.plan_params, &plan));
  CHECK(memcmp(&plan, &f.plan, sizeof plan) == 0 && fake_launches() == 0 && fake.prepares == 0);
  flashmla_prepared_free(prepared);
  fixture_free(&f);
}

int main(void) {
  for (int32_t device = kDLCPU; device <= kDLCUDA; ++device)
    for (int32_t num_splits = 0; num_splits < 8; num_splits += 7) {
      run_is_the_call(SMALL, device, num_splits, FLASHMLA_CAUSAL);
      run_is_the_call(SMALL_VARLEN, device, num_splits, 0);
    }
  run_is_the_call(SMALL, kDLCUDA, 0, FLASHMLA_BATCH_INVARIANT);
  run_is_the_call(SMALL_VARLEN, kDLCPU, 0, FLASHMLA_BATCH_INVARIANT);
  refused();
  pointers();
  empty();
  return 0;
}
