/* What a checked call hands to a backend, and the entry points that only pass on. */
#include "check.h"
#include "fake_backend.h"
#include "fixture.h"

static void call_is_flat(void) {
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
  const fm_attention *a = &fake.decode.attention;
  const fm_paged *p = &fake.decode.paged;
  CHECK(fake.cpu_decodes == 1 && fake_launches() == 1 && fake.prepares == 0 && !fake.again);
  CHECK(a->work.batch == 4 && a->work.s_q == 2 && a->work.h_q == 6 && a->work.h_kv == 2 && a->d_v == 512);
  CHECK(a->queries.d_qk == 576 && p->pages.num_blocks == 5 && p->pages.page_size == 64 && p->max_blocks == 3);
  CHECK(a->work.capacity == 3 * 64 && a->work.cu_seqlens_q == NULL && !a->work.varlen);
  CHECK(a->queries.dtype == FM_BF16 && p->pages.dtype == FM_BF16 && a->output.dtype == FM_BF16);
  CHECK(a->mask.causal && a->mask.cp_world == 0 && a->mask.global_seqlens == NULL);
  CHECK(fake.decode.num_threads == 3 && fake.decode.stream == &f && a->queries.softmax_scale == 0.05f);
  CHECK(a->queries.data == (char *)f.tensor[Q].data + 32 && p->pages.data == f.tensor[KV_CACHE].data);
  CHECK(a->queries.stride[0] == 2 * 6 * 576 && a->queries.stride[1] == 6 * 576 && a->queries.stride[2] == 576);
  CHECK(p->pages.block_step == 2 * 64 * 2 * 576 && p->pages.row_step == 2 * 2 * 576 && p->pages.head_step == 2 * 576);
  const fm_output *o = &a->output;
  CHECK(o->out_stride[0] == 2 * 6 * 512 && o->out_stride[1] == 6 * 512 && o->out_stride[2] == 512);
  CHECK(o->lse_stride[0] == 1 && o->lse_stride[1] == 100 && o->lse_stride[2] == 10);
  CHECK(p->block_table == f.tensor[BLOCK_TABLE].data && p->block_table_stride == 3);
  CHECK(a->work.lengths == f.tensor[CACHE_SEQLENS].data && o->out == f.tensor[OUT].data);
  CHECK(o->lse == f.tensor[LSE].data);
  fixture_free(&f);
}

static void workspace_is_split(void) {
  fixture f;
  fixture_init(&f, SMALL);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  const fm_attention *a = &fake.decode.attention;
  char *workspace = f.decode.workspace;
  CHECK(fake.decode.attention.own_plan && (char *)a->schedule.cuts == workspace);
  CHECK((char *)a->schedule.cost_before >= (char *)(a->schedule.cuts + a->tiling.num_parts + 1));
  CHECK((char *)a->partials.rows >= (char *)(a->schedule.cost_before + 5));
  const size_t rows = 2 * (size_t)a->tiling.num_parts * a->tiling.cluster * a->tiling.block_rows;
  CHECK(a->partials.facts == (float *)a->partials.rows + rows * 512);
  CHECK((char *)(a->partials.facts + rows) <= workspace + f.decode.workspace_size);

  f.decode.lse = NULL;
  fixture_use_plan(&f, 1);
  CHECK(f.decode.workspace_size == 0);
  f.decode.flags = 0;
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK(!fake.decode.attention.own_plan && a->schedule.cuts == f.plan_params.buffer);
  CHECK(a->partials.rows == NULL && a->partials.facts == NULL && a->output.lse == NULL);
  fixture_free(&f);
}

static void kernels(void) {
  static const char *const gpu[] = {"fake_plan", "fake_cuda"}; /* come first */
  flashmla_kernel_info info = FLASHMLA_KERNEL_INFO_INIT;
  int32_t row = 0;
  for (; row < 2; ++row) {
    CHECK_OK(flashmla_kernel_at(row, &info));
    CHECK(strcmp(info.name, gpu[row]) == 0 && strcmp(info.target, "sm_90a") == 0);
  }
  for (int32_t i = 0; fm_operation_at(i) != NULL; ++i) /* operation by operation */
    for (int32_t j = 0; j < fm_operation_at(i)->num_cpu_kernels; ++j, ++row) {
      CHECK_OK(flashmla_kernel_at(row, &info));
      CHECK(strcmp(info.name, fm_operation_at(i)->cpu_kernels[j].name) == 0 && strcmp(info.target, "cpu") == 0);
    }
  CHECK(flashmla_kernel_count() == row);
  CHECK_STATUS(flashmla_kernel_at(row, &info), FLASHMLA_ERROR_VALUE, "it must be in [0, ");
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
  CHECK_OK(flashmla_stream_synchronize(0, NULL));
  CHECK_STATUS(flashmla_stream_synchronize(3, &version), FLASHMLA_ERROR_DRIVER, "device 3");
  CHECK(strcmp(flashmla_cpu_isa(), "fake") == 0);
  CHECK(flashmla_abi_version() == FLASHMLA_ABI_VERSION);
  CHECK(flashmla_version() == FLASHMLA_VERSION);
}

int main(void) {
  call_is_flat();
  workspace_is_split();
  kernels();
  pass_through();
  return 0;
}
