/* What a checked call hands to a backend, and the entry points that only pass on. */
#include "check.h"
#include "fake_backend.h"
#include "fixture.h"

static void problem_is_flat(void) {
  fixture f;
  fixture_init(&f, SMALL);
  f.tensor[Q].byte_offset = 32;
  f.tensor[KV_CACHE].strides = NULL;
  f.strides[LSE][0] = 1;
  f.strides[LSE][1] = 100;
  f.strides[LSE][2] = 10;
  f.decode.num_threads = 3;
  f.decode.flags = FLASHMLA_CAUSAL;
  f.decode.stream = &f;
  CHECK_OK(flashmla_dense_decode(&f.decode));
  const fm_problem *p = &fake.last.problem;
  CHECK(p->batch == 4 && p->s_q == 2 && p->h_q == 6 && p->h_kv == 2 && p->d_qk == 576 && p->d_v == 512);
  CHECK(p->num_blocks == 5 && p->page_size == 64 && p->max_blocks == 3);
  CHECK(p->dtype == FM_BF16 && p->causal && !p->cuda && p->num_threads == 3 && p->stream == &f);
  CHECK(p->softmax_scale == 0.05f);
  CHECK(p->q == (char *)f.tensor[Q].data + 32 && p->kv == f.tensor[KV_CACHE].data);
  CHECK(p->q_stride[0] == 2 * 6 * 576 && p->q_stride[1] == 6 * 576 && p->q_stride[2] == 576);
  CHECK(p->kv_stride[0] == 64 * 2 * 576 && p->kv_stride[1] == 2 * 576 && p->kv_stride[2] == 576);
  CHECK(p->out_stride[0] == 2 * 6 * 512 && p->out_stride[1] == 6 * 512 && p->out_stride[2] == 512);
  CHECK(p->lse_stride[0] == 1 && p->lse_stride[1] == 100 && p->lse_stride[2] == 10);
  CHECK(p->block_table == f.tensor[BLOCK_TABLE].data && p->block_table_stride == 3);
  CHECK(p->cache_seqlens == f.tensor[CACHE_SEQLENS].data && p->out == f.tensor[OUT].data);
  CHECK(p->lse == f.tensor[LSE].data);
  fixture_free(&f);
}

static void workspace_is_split(void) {
  fixture f;
  fixture_init(&f, SMALL);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  const fm_run *run = &fake.last;
  char *workspace = f.decode.workspace;
  CHECK(run->make_plan && (char *)run->cuts == workspace);
  CHECK((char *)run->cost_before >= (char *)(run->cuts + run->tiling.num_parts + 1));
  CHECK((char *)run->partial >= (char *)(run->cost_before + 5));
  const size_t rows = 2 * (size_t)run->tiling.num_parts * run->tiling.cluster * run->tiling.block_rows;
  CHECK(run->partial_facts == (float *)run->partial + rows * 512);
  CHECK((char *)(run->partial_facts + rows) <= workspace + f.decode.workspace_size);

  f.decode.lse = NULL;
  fixture_use_plan(&f, 1);
  CHECK(f.decode.workspace_size == 0);
  f.decode.flags = 0;
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK(run->partial == NULL && run->partial_facts == NULL && run->problem.lse == NULL);
  fixture_free(&f);
}

static void kernels(void) {
  static const char *const names[] = {"fake_plan", "fake_cuda", "fake_cpu"}; /* CUDA rows first */
  flashmla_kernel_info info;
  CHECK(flashmla_kernel_count() == 3);
  for (int32_t i = 0; i < 3; ++i) {
    CHECK_OK(flashmla_kernel_at(i, &info));
    CHECK(strcmp(info.name, names[i]) == 0);
  }
  CHECK_STATUS(flashmla_kernel_at(3, &info), FLASHMLA_ERROR_VALUE, "index is 3; it must be in [0, 3)");
  CHECK_STATUS(flashmla_kernel_at(-1, &info), FLASHMLA_ERROR_VALUE, "index is -1");
  CHECK_STATUS(flashmla_kernel_at(0, NULL), FLASHMLA_ERROR_NULL_POINTER, "info is NULL");

  fixture f;
  fixture_init(&f, SMALL);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK(strcmp(flashmla_last_kernel(), "fake_cpu") == 0);
  f.decode.q = NULL;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_NULL_POINTER, "q");
  CHECK(strcmp(flashmla_last_kernel(), "fake_cpu") == 0); /* of the last success */
  f.decode.q = &f.tensor[Q];
  fixture_set_device(&f, kDLCUDA, 0);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK(strcmp(flashmla_last_kernel(), "fake_cuda") == 0);
  CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan));
  CHECK(strcmp(flashmla_last_kernel(), "fake_plan") == 0);
  fixture_set_device(&f, kDLCPU, 0);
  CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan));
  CHECK(strcmp(flashmla_last_kernel(), "") == 0);
  fixture_free(&f);
}

static void pass_through(void) {
  int32_t version = 0;
  CHECK_OK(flashmla_driver_version(&version));
  CHECK(version == 12040);
  CHECK_STATUS(flashmla_driver_version(NULL), FLASHMLA_ERROR_NULL_POINTER, "version is NULL");
  CHECK_OK(flashmla_stream_synchronize(0, NULL));
  CHECK_STATUS(flashmla_stream_synchronize(3, &version), FLASHMLA_ERROR_DRIVER, "device 3");
  CHECK(strcmp(flashmla_cpu_isa(), "fake") == 0);
  CHECK(flashmla_abi_version() == FLASHMLA_ABI_VERSION);
  CHECK(flashmla_version() == FLASHMLA_VERSION_MAJOR * 10000 + FLASHMLA_VERSION_MINOR * 100 + FLASHMLA_VERSION_PATCH);
}

int main(void) {
  problem_is_flat();
  workspace_is_split();
  kernels();
  pass_through();
  return 0;
}
