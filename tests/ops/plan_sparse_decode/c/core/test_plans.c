/* plan_sparse_decode: what its backend gets, and that a plan serves the calls it was made for and no others. */
#include "../../../sparse_decode/c/fake_sparse.h"
#include "../fake_plan_sparse.h"
#include "../planned.h"

static selections s;
static flashmla_plan plan;

/* One change of the call that the plan was made for. */
#define MISMATCH_OF(varlen, part, ...)                                                                          \
  do {                                                                                                          \
    uint64_t bytes;                                                                                             \
    init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);                                                               \
    if (varlen) make_varlen(&s);                                                                                \
    plan = plan_of(&s, 0);                                                                                      \
    fake_launches();                                                                                            \
    s.params.plan = &plan;                                                                                      \
    CHECK_OK(flashmla_sparse_decode_workspace_size(&s.params, &bytes));                                         \
    __VA_ARGS__;                                                                                                \
    CHECK_STATUS(flashmla_sparse_decode_workspace_size(&s.params, &bytes), FLASHMLA_ERROR_PLAN_MISMATCH, part); \
    CHECK_STATUS(flashmla_sparse_decode(&s.params), FLASHMLA_ERROR_PLAN_MISMATCH, part);                        \
    CHECK(fake_launches() == 0);                                                                                \
  } while (0)
#define MISMATCH(part, ...) MISMATCH_OF(false, part, __VA_ARGS__)

static void set_batch(int64_t batch) {
  const int of_requests[] = {Q, INDICES, LENGTHS, EXTRA_INDICES, EXTRA_LENGTHS, OUT, LSE};
  for (size_t i = 0; i < sizeof of_requests / sizeof *of_requests; ++i) s.shape[of_requests[i]][0] = batch;
}

static void set_columns(int64_t d_qk) {
  SET(&s, Q, BF16, BATCH, S_Q, H_Q, d_qk);
  SET(&s, KV, BF16, BLOCKS, PAGE, 1, d_qk);
  SET(&s, EXTRA_KV, BF16, EXTRA_BLOCKS, EXTRA_PAGE, 1, d_qk);
}

static void other_calls(void) {
  MISMATCH("plan was made for batch 3, q.shape[0] is 2", set_batch(2));
  MISMATCH("plan was made for s_q 2, q.shape[1] is 1",
           s.shape[Q][1] = s.shape[INDICES][1] = s.shape[EXTRA_INDICES][1] = s.shape[OUT][1] = s.shape[LSE][2] = 1);
  MISMATCH("plan was made for h_q 5, q.shape[2] is 4",
           s.shape[Q][2] = s.shape[OUT][2] = s.shape[LSE][1] = s.shape[SINK][0] = 4);
  MISMATCH("plan was made for d_qk 576, q.shape[3] is 512", set_columns(512));
  MISMATCH("plan was made for topk 100, indices.shape[2] is 99", s.shape[INDICES][2] = 99);
  MISMATCH("plan was made for extra_topk 7, extra_indices.shape[2] (0 without it) is 6", s.shape[EXTRA_INDICES][2] = 6);
  MISMATCH("plan was made for extra_topk 7, extra_indices.shape[2] (0 without it) is 0",
           s.params.extra_kv_cache = s.params.extra_indices = s.params.extra_topk_length = NULL);
  MISMATCH("plan was made for dtype bfloat16, q.dtype is float16",
           s.tensor[Q].dtype = s.tensor[KV].dtype = s.tensor[EXTRA_KV].dtype = s.tensor[OUT].dtype = FP16);
  MISMATCH("plan was made without cu_seqlens_q, the call is with it", make_varlen(&s));
  MISMATCH("plan was made without FLASHMLA_BATCH_INVARIANT, the call is with it",
           s.params.flags = FLASHMLA_BATCH_INVARIANT);
  MISMATCH("plan was made for device cpu:0, q is on cuda:0", set_device(&s, kDLCUDA));
  MISMATCH("in 2 parts, the call's has 3 of 2 in ", fake.limits.workers = 4; plan = plan_of(&s, 0); fake_launches();
           fake.limits.workers = 132);
  MISMATCH_OF(true, "plan was made for batch 3, cu_seqlens_q.shape[0] - 1 is 2", s.shape[OFFSETS][0] = 3;
              s.shape[LENGTHS][0] = s.shape[EXTRA_LENGTHS][0] = 2);
  MISMATCH_OF(true, "plan was made for s_q 4, params.max_seqlen_q (at most total_q) is 3", s.params.max_seqlen_q = 3);
  MISMATCH_OF(true, "plan was made for topk 100, indices.shape[1] is 1", s.shape[INDICES][1] = 1);
  MISMATCH("plan was never made; flashmla_plan_sparse_decode must fill it first", memset(&plan, 0, sizeof plan));
  MISMATCH("plan is damaged: its content changed after flashmla_plan_sparse_decode filled it", plan.opaque[8] ^= 1);
}

/* Those of dense_decode are no others' plans, nor are these dense_decode's. */
static void other_operations(void) {
  MISMATCH("plan was made for another operation; sparse_decode takes one of flashmla_plan_sparse_decode",
           plan.opaque[1] ^= UINT64_C(3) << 32);
}

/* Whatever a schedule does not depend on: other layers have it otherwise. */
static void what_a_plan_leaves_open(void) {
  init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);
  plan = plan_of(&s, 0);
  s.params.plan = &plan;
  SET(&s, KV, UINT8, 2, 32, 1, 656);
  s.params.kv_format = FLASHMLA_KV_V32;
  s.tensor[INDICES].dtype = INT64;
  s.tensor[OUT].dtype = FP32;
  s.params.attn_sink = s.params.lse = s.params.topk_length = NULL;
  s.params.flags = FLASHMLA_LSE_BASE2 | FLASHMLA_DEFAULT_SCALE;
  CHECK_OK(flashmla_sparse_decode(&s.params));
  CHECK(!fake_sparse.attention.own_plan && fake_sparse.attention.work.lengths == NULL);
}

static void rules_of_plans(void) {
  init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);
  flashmla_plan_sparse_decode_params params = plan_params_of(&s, 1025);
  fake_launches();
  memset(&plan, 0x5a, sizeof plan);
  const flashmla_plan before = plan;
  CHECK_STATUS(flashmla_plan_sparse_decode(&params, &plan), FLASHMLA_ERROR_VALUE, "params.num_splits is 1025");
  params = plan_params_of(&s, 0);
  params.extra_indices = NULL;
  CHECK_STATUS(flashmla_plan_sparse_decode(&params, &plan), FLASHMLA_ERROR_VALUE,
               "extra_topk_length is given; without extra_indices it must be left out");
  params = plan_params_of(&s, 0);
  params.buffer_size = 64;
  CHECK_STATUS(flashmla_plan_sparse_decode(&params, &plan), FLASHMLA_ERROR_WORKSPACE_TOO_SMALL,
               "params.buffer_size is 64");
  params = plan_params_of(&s, 0);
  CHECK_STATUS(flashmla_plan_sparse_decode(&params, NULL), FLASHMLA_ERROR_NULL_POINTER, "plan is NULL; the result");
  s.tensor[Q].dtype = FP16;
  set_device(&s, kDLCUDA);
  CHECK_STATUS(flashmla_plan_sparse_decode(&params, &plan), FLASHMLA_ERROR_UNSUPPORTED,
               "q.dtype is float16; supported on CUDA is bfloat16");
  CHECK(memcmp(&plan, &before, sizeof plan) == 0 && fake_launches() == 0);
}

static void what_backends_get(int32_t device, int32_t num_splits) {
  init(&s, FLASHMLA_KV_MODEL1, FLASHMLA_KV_MODEL1);
  s.params.flags = FLASHMLA_DEFAULT_SCALE;
  set_device(&s, device);
  uint64_t planned, alone, plan_bytes;
  flashmla_plan_sparse_decode_params params = plan_params_of(&s, num_splits);
  params.stream = &s;
  CHECK_OK(flashmla_plan_sparse_decode_size(&params, &plan_bytes));
  CHECK_OK(flashmla_sparse_decode_workspace_size(&s.params, &alone));
  params.buffer_size = plan_bytes;
  CHECK_OK(flashmla_plan_sparse_decode(&params, &plan));
  CHECK(fake_launches() == 1);
  const fm_attention *made = &fake_plan_sparse.attention, *used = &fake_sparse.attention;
  CHECK((const void *)made->work.lengths == memory[LENGTHS] && made->work.capacity == TOPK && made->work.own_items);
  CHECK((const void *)made->work.extra_lengths == memory[EXTRA_LENGTHS] && made->work.extra_capacity == EXTRA_TOPK);
  CHECK((void *)made->schedule.cuts == buffers[0] && fake_plan_sparse.stream == &s);

  const flashmla_plan copy = plan;
  memset(&plan, 0, sizeof plan);
  s.params.plan = &copy;
  CHECK_OK(flashmla_sparse_decode_workspace_size(&s.params, &planned));
  CHECK(num_splits > 0 || planned + plan_bytes == alone);
  s.params.workspace_size = planned;
  CHECK_OK(flashmla_sparse_decode(&s.params));
  CHECK(fake_launches() == 1 && !used->own_plan && (void *)used->schedule.cuts == buffers[0]);
  CHECK(used->partials.rows == scratch && used->tiling.num_splits == num_splits);
  CHECK(memcmp(&used->tiling, &made->tiling, sizeof used->tiling) == 0);
}

static void prepared_calls(int32_t device) {
  init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);
  set_device(&s, device);
  flashmla_prepared *planner, *decoder;
  flashmla_plan_sparse_decode_params params = plan_params_of(&s, 3);
  CHECK_OK(flashmla_plan_sparse_decode_prepare(&params, &planner));
  params.buffer = buffers[1];
  CHECK_OK(flashmla_plan_sparse_decode(&params, &plan));
  flashmla_plan other;
  CHECK_OK(flashmla_plan_sparse_decode_run(planner, &params, &other));
  CHECK(memcmp(&plan, &other, sizeof plan) == 0 && fake_launches() == 2);
  s.params.plan = &plan;
  CHECK_OK(flashmla_sparse_decode_prepare(&s.params, &decoder));
  params.buffer = buffers[0];
  CHECK_OK(flashmla_plan_sparse_decode_run(planner, &params, &other));
  fake_launches();
  s.params.plan = &other;
  CHECK_OK(flashmla_sparse_decode_run(decoder, &s.params));
  CHECK(fake_launches() == 1 && (void *)fake_sparse.attention.schedule.cuts == buffers[0]);
  s.params.plan = NULL;
  CHECK_STATUS(flashmla_sparse_decode_run(decoder, &s.params), FLASHMLA_ERROR_PLAN_MISMATCH,
               "plan is NULL; the prepared call was with one");
  other = plan_of(&s, 0);
  s.params.plan = &other;
  CHECK_STATUS(flashmla_sparse_decode_run(decoder, &s.params), FLASHMLA_ERROR_PLAN_MISMATCH,
               "plan has num_splits 0, that of the prepared call 3");
  flashmla_prepared_free(planner);
  flashmla_prepared_free(decoder);
  fake_launches();
}

/* A plan that was made without lengths may know that no tile is split, and a call follows its plan. */
static void plans_without_lengths(void) {
  flashmla_prepared *decoder;
  uint64_t bytes;
  fake.limits.workers = 6; /* as many as tiles */
  init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);
  const flashmla_plan with = plan_of(&s, 0);
  CHECK(!fake_plan_sparse.attention.tiling.whole);
  s.params.plan = &with;
  CHECK_OK(flashmla_sparse_decode_workspace_size(&s.params, &bytes));
  CHECK(bytes > 0);
  s.params.topk_length = s.params.extra_topk_length = NULL;
  CHECK_OK(flashmla_sparse_decode(&s.params));
  CHECK(!fake_sparse.attention.tiling.whole);

  const flashmla_plan without = plan_of(&s, 0);
  CHECK(fake_plan_sparse.attention.tiling.whole);
  s.params.plan = &without;
  CHECK_OK(flashmla_sparse_decode_prepare(&s.params, &decoder));
  init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);
  s.params.plan = &without;
  CHECK_OK(flashmla_sparse_decode_workspace_size(&s.params, &bytes));
  CHECK(bytes == 0);
  CHECK_OK(flashmla_sparse_decode(&s.params));
  CHECK(fake_sparse.attention.tiling.whole && fake_sparse.attention.partials.rows == NULL);
  s.params.plan = &with;
  s.params.topk_length = s.params.extra_topk_length = NULL;
  CHECK_STATUS(flashmla_sparse_decode_run(decoder, &s.params), FLASHMLA_ERROR_PLAN_MISMATCH,
               "plan was made with lengths, that of the prepared call without them");
  flashmla_prepared_free(decoder);
  fake.limits.workers = 132;
  fake_launches();
}

/* As callers had it before there were plans. */
static void a_call_without_the_field(void) {
  init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);
  s.params.struct_size = offsetof(flashmla_sparse_decode_params, plan);
  s.params.plan = (const flashmla_plan *)&s;
  CHECK_OK(flashmla_sparse_decode(&s.params));
  CHECK(fake_launches() == 1 && fake_sparse.attention.own_plan);
}

/* An empty call's plan holds no schedule, and serves empty calls. */
static void empty(void) {
  init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);
  set_batch(0);
  flashmla_plan_sparse_decode_params params = plan_params_of(&s, 0);
  params.buffer = NULL;
  params.buffer_size = 0;
  CHECK_OK(flashmla_plan_sparse_decode(&params, &plan));
  s.params.plan = &plan;
  CHECK_OK(flashmla_sparse_decode(&s.params));
  CHECK(fake_launches() == 0);
}

int main(void) {
  other_calls();
  other_operations();
  what_a_plan_leaves_open();
  rules_of_plans();
  for (int32_t device = kDLCPU; device <= kDLCUDA; ++device) {
    what_backends_get(device, 0);
    what_backends_get(device, 7);
    prepared_calls(device);
  }
  plans_without_lengths();
  a_call_without_the_field();
  empty();
  return 0;
}
