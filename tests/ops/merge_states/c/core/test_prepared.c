/* Prepared calls of merge_states: what a run hands to a backend, with few parts, many, and stacked ones. */
#include <math.h>

#include "../parts.h"
#include "../fake_merge.h"

enum { UNEVEN = 16 /* bytes by which part 1 is moved, so that the parts are not evenly spaced */ };

static parts p;

/* A prepared call, all of whose arguments are gone. */
static flashmla_prepared *prepared_of(int count, int stack, int varlen, int32_t device, uint64_t uneven) {
  flashmla_prepared *prepared = NULL;
  init(&p, count, stack, varlen);
  set_device(&p, device);
  p.out[1].byte_offset = uneven;
  p.params.flags = FLASHMLA_LSE_BASE2;
  fake.prepares = 0;
  CHECK_OK(flashmla_merge_states_prepare(&p.params, &prepared));
  CHECK(prepared != NULL && fake_launches() == 0 && fake.prepares == (device == kDLCUDA));
  memset(&p, 0xff, sizeof p);
  fake.prepares = 0;
  return prepared;
}

/* The same call elsewhere: every address is another. */
static void init_elsewhere(int count, int stack, int varlen, int32_t device, uint64_t uneven) {
  init(&p, count, stack, varlen);
  set_device(&p, device);
  for (int i = 0; i < count; ++i) {
    p.out[i].byte_offset = 64;
    p.lse[i].byte_offset = 8;
  }
  p.out[1].byte_offset += uneven;
  p.result_out.byte_offset = 128;
  p.result_lse.byte_offset = 12;
  p.params.flags = FLASHMLA_LSE_BASE2;
  p.params.stream = &p;
}

/* All that a run must not look at. */
static void scramble(void) {
  for (int i = 0; i < MOST; ++i) {
    p.out[i].shape = p.out[i].strides = p.lse[i].shape = p.lse[i].strides = NULL;
    p.out[i].ndim = p.lse[i].ndim = -1;
    p.out[i].dtype = p.lse[i].dtype = (DLDataType){77, 168, 0};
  }
  p.result_out.shape = p.result_out.strides = NULL;
  p.result_out.dtype = p.result_lse.dtype = (DLDataType){77, 168, 0};
  p.params.flags = UINT32_MAX;
  p.params.num_states = p.params.num_threads = -1;
}

static void check_same(const fm_merge *a, const fm_merge *b) {
#define SAME(member) (memcmp(&a->member, &b->member, sizeof a->member) == 0)
  CHECK(SAME(dtype) && SAME(out_dtype) && SAME(batch) && SAME(s_q) && SAME(h_q) && SAME(d_v) && SAME(num_states));
  CHECK(SAME(stacked) && SAME(out_state_stride) && SAME(lse_state_stride) && SAME(listed) && SAME(result));
  CHECK(SAME(lse_base2) && SAME(empty_lse) && SAME(num_threads) && SAME(stream));
#undef SAME
}

/* A run gives a backend what the plain call does. `before`, `after`: whether the parts that were prepared, and those
 * that are run, are unevenly spaced. */
static void run_is_the_call(int count, int stack, int varlen, int32_t device, int before, int after) {
  static fm_state states[FM_MAX_CPU_STATES];
  flashmla_prepared *prepared = prepared_of(count, stack, varlen, device, before ? UNEVEN : 0);
  for (int round = 0; round < 2; ++round) {
    init_elsewhere(count, stack, varlen, device, after ? UNEVEN : 0);
    CHECK_OK(flashmla_merge_states(&p.params));
    const fm_merge plain = fake_merge;
    memcpy(states, fake_states, sizeof states);
    memset(&fake_merge, 0, sizeof fake_merge);
    memset(fake_states, 0, sizeof fake_states);
    fake_launches();
    fake.prepares = 0;
    scramble();
    CHECK_OK(flashmla_merge_states_run(prepared, &p.params));
    check_same(&plain, &fake_merge);
    const int given = fake_merge.stacked ? 1 : count;
    CHECK(memcmp(states, fake_states, sizeof *states * (size_t)given) == 0);
    CHECK((device == kDLCUDA ? fake.cuda_launches : fake.cpu_launches) == 1 && fake.again);
    CHECK(strcmp(flashmla_last_kernel(), device == kDLCUDA ? "fake_cuda_merge" : "fake_cpu_merge") == 0);
    CHECK(fake_launches() == 1 && fake.prepares == 0);
  }
  flashmla_prepared_free(prepared);
}

static void runs(void) {
  const int counts[] = {1, 2, 3, 15, 16, 17, 40, FM_MAX_CPU_STATES};
  for (int i = 0; i < 8; ++i)
    for (int forms = 0; forms < 4; ++forms) {
      run_is_the_call(counts[i], 0, 0, kDLCPU, forms & 1, forms >> 1);
      if (counts[i] <= FM_MAX_STATES) run_is_the_call(counts[i], 0, 1, kDLCUDA, forms & 1, forms >> 1);
    }
  run_is_the_call(40, 0, 1, kDLCUDA, 0, 0);
  run_is_the_call(1, 7, 0, kDLCPU, 0, 0);
  run_is_the_call(1, 100, 1, kDLCUDA, 0, 0);
}

#define REFUSED_RUN(count, stack, device, status, part, change)                                  \
  do {                                                                                           \
    flashmla_prepared *prepared = prepared_of(count, stack, 0, device, 0);                       \
    init_elsewhere(count, stack, 0, device, 0);                                                  \
    change;                                                                                      \
    CHECK_STATUS(flashmla_merge_states_run(prepared, &p.params), FLASHMLA_ERROR_##status, part); \
    CHECK(fake_launches() == 0 && fake.prepares == 0);                                           \
    flashmla_prepared_free(prepared);                                                            \
  } while (0)

static void refused(void) {
  for (int count = 3; count <= 40; count += 37) {
    REFUSED_RUN(count, 0, kDLCPU, NULL_POINTER, "outs is NULL; the tensors are required", p.params.outs = NULL);
    REFUSED_RUN(count, 0, kDLCPU, NULL_POINTER, "lses is NULL; the tensors are required", p.params.lses = NULL);
    REFUSED_RUN(count, 0, kDLCPU, NULL_POINTER, "outs[2] is NULL; the tensor is required", p.outs[2] = NULL);
    REFUSED_RUN(count, 0, kDLCPU, NULL_POINTER, "lses[0] is NULL; the tensor is required", p.lses[0] = NULL);
    REFUSED_RUN(count, 0, kDLCUDA, NULL_POINTER, "outs[1].data is NULL", p.out[1].data = NULL);
    REFUSED_RUN(count, 0, kDLCUDA, ALIGNMENT, "outs[1] starts at address", p.out[1].byte_offset = 8);
    REFUSED_RUN(count, 0, kDLCPU, ALIGNMENT, "lses[2] starts at address", p.lse[2].byte_offset = 2);
    REFUSED_RUN(count, 0, kDLCPU, OVERFLOW, "outs[1].byte_offset is ", p.out[1].byte_offset = UINT64_MAX - 15);
    REFUSED_RUN(count, 0, kDLCPU, OVERFLOW, "lses[2].byte_offset is ",
                p.lse[2].byte_offset = UINT64_MAX - 15 - (uintptr_t)p.lse[2].data);
    REFUSED_RUN(count, 0, kDLCPU, ALIGNMENT, "out starts at address", p.result_out.byte_offset = 2);
    REFUSED_RUN(count, 0, kDLCPU, NULL_POINTER, "out is NULL; the prepared call was with it", p.params.out = NULL);
    REFUSED_RUN(count, 0, kDLCPU, NULL_POINTER, "lse is NULL; the prepared call was with it", p.params.lse = NULL);
    REFUSED_RUN(count, 0, kDLCPU, STRUCT_SIZE, "params.struct_size is 8", p.params.struct_size = 8);
  }
  REFUSED_RUN(1, 7, kDLCPU, NULL_POINTER, "outs is NULL; the tensors are required", p.params.outs = NULL);
  REFUSED_RUN(1, 7, kDLCPU, NULL_POINTER, "outs is NULL; the tensor is required", p.outs[0] = NULL);
  REFUSED_RUN(1, 7, kDLCPU, ALIGNMENT, "lses starts at address", p.lse[0].byte_offset = 2);
  REFUSED_RUN(17, 0, kDLCUDA, UNSUPPORTED, "params.num_states is 17; supported on CUDA are up to 16 separate tensors",
              p.out[1].byte_offset += UNEVEN);
}

static void pointers(void) {
  flashmla_prepared *prepared = prepared_of(3, 0, 0, kDLCPU, 0), *untouched = (void *)&p;
  init_elsewhere(17, 0, 0, kDLCPU, 0);
  CHECK_STATUS(flashmla_merge_states_run(prepared, NULL), FLASHMLA_ERROR_NULL_POINTER, "params is NULL");
  CHECK_STATUS(flashmla_merge_states_run(NULL, &p.params), FLASHMLA_ERROR_NULL_POINTER,
               "prepared is NULL; flashmla_merge_states_prepare makes it");
  CHECK_STATUS(flashmla_merge_states_prepare(&p.params, NULL), FLASHMLA_ERROR_NULL_POINTER, "prepared is NULL");
  /* What was taken for 17 parts is given back. */
  p.out[9].byte_offset = 2;
  CHECK_STATUS(flashmla_merge_states_prepare(&p.params, &untouched), FLASHMLA_ERROR_ALIGNMENT, "outs[9] starts");
  p.out[9].byte_offset = 64;
  set_device(&p, kDLCUDA);
  fake.answer = FLASHMLA_ERROR_DRIVER;
  CHECK_STATUS(flashmla_merge_states_prepare(&p.params, &untouched), FLASHMLA_ERROR_DRIVER, "the fake refuses");
  fake.answer = FLASHMLA_OK;
  CHECK(untouched == (void *)&p && fake_launches() == 0);
  flashmla_prepared_free(prepared);
}

static void empty(int count) {
  flashmla_prepared *prepared;
  init(&p, count, 0, 0);
  p.out_shape[0] = p.lse_shape[0] = p.result_shape[0] = p.result_lse_shape[0] = 0;
  set_device(&p, kDLCUDA);
  fake.prepares = 0;
  CHECK_OK(flashmla_merge_states_prepare(&p.params, &prepared));
  for (int i = 0; i < count; ++i) p.out[i].byte_offset = 1;
  p.result_out.data = NULL;
  CHECK_OK(flashmla_merge_states_run(prepared, &p.params));
  CHECK(fake_launches() == 0 && fake.prepares == 0 && strcmp(flashmla_last_kernel(), "") == 0);
  p.params.outs = NULL;
  CHECK_STATUS(flashmla_merge_states_run(prepared, &p.params), FLASHMLA_ERROR_NULL_POINTER, "outs is NULL");
  flashmla_prepared_free(prepared);
}

int main(void) {
  runs();
  refused();
  pointers();
  empty(3);
  empty(30);
  return 0;
}
