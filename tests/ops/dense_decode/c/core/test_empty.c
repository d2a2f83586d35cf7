/* batch, s_q or total_q == 0: success, nothing run, no memory needed; the other rules still hold. */
#include "check.h"
#include "fake_backend.h"
#include "fixture.h"

/* Frameworks describe arrays without elements with NULL data and with strides of 0. */
static void forget_memory(fixture *f) {
  for (int i = 0; i < TENSORS; ++i) {
    for (int axis = 0; axis < f->tensor[i].ndim; ++axis)
      if (f->shape[i][axis] == 0) memset(f->strides[i], 0, sizeof f->strides[i]);
    free(f->tensor[i].data);
    f->tensor[i].data = NULL;
  }
  free(f->decode.workspace);
  free(f->plan_params.buffer);
  f->decode.workspace = f->plan_params.buffer = NULL;
}

static void empty(geometry g, int32_t device_type) {
  fixture f;
  fixture_init(&f, g);
  CHECK(f.decode.workspace_size == 0 && f.plan_params.buffer_size == 0);
  forget_memory(&f);
  fixture_set_device(&f, device_type, 99); /* a device that is not there: nothing asks for it */
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan));
  f.decode.plan = &f.plan;
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK(strcmp(flashmla_last_kernel(), "") == 0);
  CHECK(fake.cpu_decodes == 0 && fake.cuda_decodes == 0 && fake.cuda_plans == 0);

  f.decode.flags = FLASHMLA_CAUSAL;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH,
               "plan was made without FLASHMLA_CAUSAL, the call is with it");
  f.decode.plan = NULL;
  f.decode.softmax_scale = 0.0f;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_VALUE, "softmax_scale");
  f.shape[KV_CACHE][0] = 0;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_ZERO_EXTENT, "num_blocks");
  fixture_free(&f);
}

/* A page table without columns: every length counts as 0, and there is work: rows of zeros. */
static void no_columns(int32_t device_type, int32_t num_splits, uint32_t flags) {
  fixture f;
  fixture_init(&f, (geometry){4, 2, 6, 2, 5, 64, 0, .dtype = BF16});
  f.decode.flags = f.plan_params.flags = flags;
  memset(f.strides[BLOCK_TABLE], 0, sizeof f.strides[BLOCK_TABLE]);
  free(f.tensor[BLOCK_TABLE].data);
  f.tensor[BLOCK_TABLE].data = NULL;
  fixture_set_device(&f, device_type, 0);
  fixture_allocate_workspace(&f);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  fixture_use_plan(&f, num_splits);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK(fake.cpu_decodes + fake.cuda_decodes == 2 && fake.decode.attention.work.capacity == 0);
  CHECK(fake.decode.attention.tiling.num_parts >= 1);
  fake_launches();
  fixture_free(&f);
}

int main(void) {
  empty((geometry){0, 2, 6, 2, 5, 64, 3, .dtype = BF16}, kDLCPU);
  empty((geometry){4, 0, 6, 2, 5, 64, 3, .dtype = FP16}, kDLCUDA);
  empty((geometry){4, 2, 6, 2, 5, 64, 3, .dtype = BF16, .varlen = 1, .total_q = 0}, kDLCUDA);
  empty((geometry){0, 2, 6, 2, 5, 64, 3, .dtype = BF16, .varlen = 1, .total_q = 9}, kDLCPU);
  empty((geometry){0, 0, 128, 1, 1, 64, 1, .dtype = BF16}, kDLCUDA);
  empty((geometry){0, 2, 6, 2, 5, 64, 0, .dtype = BF16}, kDLCUDA);
  empty((geometry){0, 2, 6, 2, 5, 64, 0, .dtype = BF16, .varlen = 1, .total_q = 0}, kDLCPU);
  for (int splits = 0; splits < 3; ++splits) {
    no_columns(kDLCPU, splits, 0);
    no_columns(kDLCUDA, splits, FLASHMLA_CAUSAL);
  }
  no_columns(kDLCUDA, 0, FLASHMLA_BATCH_INVARIANT);
  return 0;
}
