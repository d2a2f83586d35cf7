/* fake_backend.c - see fake_backend.h. */
#include "fake_backend.h"

fake_backend fake = {.limits = {.block_rows = 64,
                                .max_cluster = 2,
                                .workers = 132,
                                .start_overhead = 3,
                                .split_overhead = 2,
                                .unit = 64,
                                .piece_units = 16,
                                .partial_bytes = 4,
                                .partial_facts = 1}};

flashmla_status fm_cuda_limits(const fm_problem *problem, int32_t num_splits, fm_backend_limits *limits) {
  (void)num_splits;
  if (problem->device_id > 7) return fm_fail(FLASHMLA_ERROR_NO_DRIVER, "no device %d", problem->device_id);
  *limits = fake.limits;
  return FLASHMLA_OK;
}

flashmla_status fm_cuda_plan(const fm_run *run) {
  ++fake.cuda_plans;
  fake.last = *run;
  fm_set_last_kernel("fake_plan");
  return FLASHMLA_OK;
}

flashmla_status fm_cuda_dense_decode(const fm_run *run) {
  ++fake.cuda_decodes;
  fake.last = *run;
  fm_set_last_kernel("fake_cuda");
  return FLASHMLA_OK;
}

static void keep_merge(const fm_merge *merge) {
  fake.last_merge = *merge;
  const int32_t states = merge->stacked ? 1 : merge->num_states;
  for (int32_t i = 0; i < states; ++i) fake.last_states[i] = merge->states[i];
}

flashmla_status fm_cuda_merge_states(const fm_merge *merge) {
  ++fake.cuda_merges;
  keep_merge(merge);
  fm_set_last_kernel("fake_cuda_merge");
  return FLASHMLA_OK;
}

flashmla_status fm_cpu_merge_states(const fm_merge *merge) {
  ++fake.cpu_merges;
  keep_merge(merge);
  fm_set_last_kernel("fake_cpu_merge");
  return FLASHMLA_OK;
}

flashmla_status fm_cuda_driver_version(int32_t *version) {
  *version = 12040;
  return FLASHMLA_OK;
}

flashmla_status fm_cuda_stream_synchronize(int32_t device_id, void *stream) {
  return stream == NULL ? FLASHMLA_OK : fm_fail(FLASHMLA_ERROR_DRIVER, "device %d has no such stream", device_id);
}

int32_t fm_cuda_kernel_count(void) { return 2; }

void fm_cuda_kernel_at(int32_t index, flashmla_kernel_info *info) {
  *info = (flashmla_kernel_info){.name = index == 0 ? "fake_plan" : "fake_cuda", .target = "sm_90a"};
}

void fm_cpu_limits(const fm_problem *problem, fm_backend_limits *limits) {
  (void)problem;
  *limits = fake.limits;
}

flashmla_status fm_cpu_dense_decode(const fm_run *run) {
  ++fake.cpu_decodes;
  fake.last = *run;
  fm_set_last_kernel("fake_cpu");
  return FLASHMLA_OK;
}

int32_t fm_cpu_kernel_count(void) { return 1; }

void fm_cpu_kernel_at(int32_t index, flashmla_kernel_info *info) {
  (void)index;
  *info = (flashmla_kernel_info){.name = "fake_cpu", .target = "cpu"};
}

const char *fm_cpu_isa(void) { return "fake"; }
