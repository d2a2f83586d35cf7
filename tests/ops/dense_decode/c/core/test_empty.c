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
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for causal 0");
  f.decode.plan = NULL;
  f.decode.softmax_scale = 0.0f;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_VALUE, "softmax_scale");
  f.shape[KV_CACHE][0] = 0;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_ZERO_EXTENT, "num_blocks");
  fixture_free(&f);
}

int main(void) {
  empty((geometry){0, 2, 6, 2, 5, 64, 3, .dtype = BF16}, kDLCPU);
  empty((geometry){4, 0, 6, 2, 5, 64, 3, .dtype = FP16}, kDLCUDA);
  empty((geometry){4, 2, 6, 2, 5, 64, 3, .dtype = BF16, .varlen = 1, .total_q = 0}, kDLCUDA);
  empty((geometry){0, 2, 6, 2, 5, 64, 3, .dtype = BF16, .varlen = 1, .total_q = 9}, kDLCPU);
  empty((geometry){0, 0, 128, 1, 1, 64, 1, .dtype = BF16}, kDLCUDA);
  return 0;
}
