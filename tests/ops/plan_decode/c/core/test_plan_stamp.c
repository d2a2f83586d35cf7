/* A plan serves the calls it was made for and no others. */
#include "check.h"
#include "fake_backend.h"
#include "fixture.h"

/* A plan for a call of geometry g, then a call that differs in one point. */
#define MISMATCH_OF(geometry_of_plan, part, change)                                                                \
  do {                                                                                                             \
    fixture f, other;                                                                                              \
    geometry g = geometry_of_plan;                                                                                 \
    fixture_init(&f, g);                                                                                           \
    fixture_use_plan(&f, 0);                                                                                       \
    change;                                                                                                        \
    fixture_init(&other, g);                                                                                       \
    other.decode.plan = &f.plan;                                                                                   \
    uint64_t bytes;                                                                                                \
    CHECK_STATUS(flashmla_dense_decode_workspace_size(&other.decode, &bytes), FLASHMLA_ERROR_PLAN_MISMATCH, part); \
    CHECK_STATUS(flashmla_dense_decode(&other.decode), FLASHMLA_ERROR_PLAN_MISMATCH, part);                        \
    CHECK(fake.cpu_decodes == 0 && fixture_outputs_untouched(&other));                                             \
    fixture_free(&other);                                                                                          \
    fixture_free(&f);                                                                                              \
  } while (0)
#define MISMATCH(part, change) MISMATCH_OF(SMALL, part, change)

static void other_shapes(void) {
  MISMATCH("plan was made for s_q 2, q.shape[1] is 1", g.s_q = 1);
  MISMATCH("plan was made for batch 4, q.shape[0] is 5", g.batch = 5);
  MISMATCH("plan was made for h_q 6, q.shape[2] is 8", g.h_q = 8);
  MISMATCH("plan was made for h_kv 2, kv_cache.shape[2] is 3", g.h_kv = 3);
  MISMATCH("plan was made for num_blocks 5, kv_cache.shape[0] is 6", g.num_blocks = 6);
  MISMATCH("plan was made for page_size 64, kv_cache.shape[1] is 32", g.page_size = 32);
  MISMATCH("plan was made for page_size 64, kv_cache.shape[1] is 32", g.num_blocks = 10; g.page_size = 32);
  MISMATCH("plan was made for max_blocks 3, block_table.shape[1] is 4", g.max_blocks = 4);
  MISMATCH("plan was made for dtype bfloat16, q.dtype is float16", g.dtype = FP16);
  MISMATCH("plan was made for d_qk 576, q.shape[3] is 512", g.d_qk = 512);
  MISMATCH("plan was made without cu_seqlens_q, the call is with it", g.varlen = 1; g.total_q = 8);
  MISMATCH_OF(SMALL_VARLEN, "plan was made with cu_seqlens_q, the call is without it", g.varlen = 0);
  MISMATCH_OF(SMALL_VARLEN, "plan was made for s_q 2, params.max_seqlen_q (at most total_q) is 3", g.s_q = 3);
  MISMATCH_OF(SMALL_VARLEN, "plan was made for total_q 7, q.shape[0] is 8", g.total_q = 8);
  MISMATCH_OF(SMALL_VARLEN, "plan was made for total_q 7, q.shape[0] is 1", g.total_q = g.s_q = 1);
  MISMATCH_OF(SMALL_VARLEN, "plan was made for batch 4, block_table.shape[0] is 5", g.batch = 5);
  MISMATCH_OF(SMALL_VARLEN, "plan was made for h_q 6, q.shape[1] is 8", g.h_q = 8);
}

/* The dtype of the result is no part of the schedule, nor is a limit on query tokens that none reaches. */
static void what_a_plan_leaves_open(void) {
  fixture f, other;
  geometry g = SMALL_VARLEN;
  g.s_q = g.total_q;
  fixture_init(&f, g);
  fixture_use_plan(&f, 0);
  fixture_init(&other, g);
  other.decode.plan = &f.plan;
  other.tensor[OUT].dtype = FP32;
  other.decode.max_seqlen_q = INT32_MAX;
  CHECK_OK(flashmla_dense_decode(&other.decode));
  CHECK(fake.cpu_decodes == 1 && fake.decode.attention.work.s_q == 7 && fake.decode.attention.output.dtype == FM_FP32);
  fake.cpu_decodes = 0;
  fixture_free(&other);
  fixture_free(&f);
}

/* An empty call's plan holds no schedule. */
static void plan_of_an_empty_call(void) {
  MISMATCH_OF(((geometry){4, 2, 6, 2, 5, 64, 3, .dtype = BF16, .varlen = 1}),
              "plan was made for total_q 0, q.shape[0] is 5", g.total_q = 5);
}

static void other_flags_and_devices(void) {
  fixture f;
  fixture_init(&f, SMALL);
  fixture_use_plan(&f, 0);
  f.decode.flags = FLASHMLA_CAUSAL;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made without FLASHMLA_CAUSAL");
  f.decode.flags = FLASHMLA_BATCH_INVARIANT;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH,
               "plan was made without FLASHMLA_BATCH_INVARIANT, the call is with it");
  f.decode.flags = FLASHMLA_DEFAULT_SCALE; /* the schedule does not depend on the scale */
  CHECK_OK(flashmla_dense_decode(&f.decode));
  fixture_set_device(&f, kDLCUDA, 1);
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH,
               "plan was made for device cpu:0, q is on cuda:1");
  CHECK(fake.cpu_decodes == 1 && fake.cuda_decodes == 0);
  fake.cpu_decodes = 0;
  fixture_free(&f);
}

static void never_made(void) {
  fixture f;
  fixture_init(&f, SMALL);
  f.decode.plan = &f.plan;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH, "plan was never made");
  fixture_use_plan(&f, 0);
  f.plan.opaque[1] ^= 7; /* its layout number */
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH, "another version of the library");
  f.plan.opaque[1] ^= 7 | UINT64_C(1) << 32; /* its operation */
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH,
               "plan was made for another operation; dense_decode takes one of flashmla_plan_decode");
  fixture_free(&f);
}

/* Any 32 bits of a plan changed, or any byte: refused, or beyond the stamp without a meaning. The address of the
 * schedule is among them. */
static void damaged(int32_t device_type) {
  fixture f;
  fixture_init(&f, SMALL);
  fixture_set_device(&f, device_type, 0);
  fixture_use_plan(&f, 3);
  const flashmla_plan made = f.plan;
  static const uint32_t masks[] = {0xff, 0x80, 1, 0x40000000, 0x80000000, 0xffffffff};
  int refused = 0;
  for (size_t at = 0; at < sizeof made; ++at)
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; ++i) {
      f.plan = made;
      unsigned char *bytes = (unsigned char *)&f.plan + at;
      uint32_t word = 0;
      const size_t width = masks[i] <= 0xff ? 1 : sizeof word;
      if (at % width != 0) continue;
      memcpy(&word, bytes, width);
      word ^= masks[i];
      memcpy(bytes, &word, width);
      uint64_t size;
      const flashmla_status status = flashmla_dense_decode_workspace_size(&f.decode, &size);
      CHECK(flashmla_dense_decode(&f.decode) == status);
      CHECK(status == FLASHMLA_OK || status == FLASHMLA_ERROR_PLAN_MISMATCH);
      CHECK((status == FLASHMLA_OK) == (at >= sizeof(fm_plan_stamp)));
      refused += status != FLASHMLA_OK;
    }
  CHECK(refused > 0);
  f.plan = made;
  f.plan.opaque[3] = 0x40000000; /* its dtype */
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH, "plan is damaged");
  fake.cpu_decodes = fake.cuda_decodes = fake.cuda_plans = 0;
  fixture_free(&f);
}

/* Any two bits of the stamp changed, the top ones of two words too, of which a product keeps nothing else. */
static void damaged_twice(void) {
  fixture f;
  fixture_init(&f, SMALL);
  fixture_use_plan(&f, 3);
  const flashmla_plan made = f.plan;
  enum { BITS = 8 * sizeof(fm_plan_stamp) };
  for (size_t first = 0; first < BITS; ++first)
    for (size_t second = first + 1; second < BITS; ++second) {
      f.plan = made;
      f.plan.opaque[first / 64] ^= UINT64_C(1) << first % 64;
      f.plan.opaque[second / 64] ^= UINT64_C(1) << second % 64;
      uint64_t size;
      CHECK(flashmla_dense_decode_workspace_size(&f.decode, &size) == FLASHMLA_ERROR_PLAN_MISMATCH);
    }
  fixture_free(&f);
}

/* The schedule of another machine size would be read beyond its end. */
static void other_number_of_parts(void) {
  fixture f;
  fixture_init(&f, SMALL);
  fake.limits.workers = 4;
  fixture_use_plan(&f, 0);
  fake.limits.workers = 6;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH,
               "in 4 parts, the call's has 8 of 1 in 6;");
  fake.limits.workers = 132;
  fixture_free(&f);
}

/* Another kernel, which the environment may choose between plan and call, has other tiles. */
static void other_tiles(void) {
  fixture f;
  geometry g = SMALL;
  g.h_q = 256;
  fixture_init(&f, g);
  fake.limits.workers = 2;
  fixture_use_plan(&f, 0);
  fake.limits.max_cluster = fake.limits.workers = 1;
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH,
               "plan was made for a kernel with 16 tiles of 2 row blocks in 1 parts, the call's has 32 of 1 in 1; "
               "formats that quantise and others have plans of their own, as have calls with lengths and without, and "
               "FLASHMLA_FORCE_KERNEL must be as it was");
  fake.limits.max_cluster = 2;
  fake.limits.workers = 132;
  fixture_free(&f);
}

/* Batch-invariant work in quanta and that which is not split have plans of their own, even with as many tiles and
 * parts: their schedules lie otherwise in the buffer. */
static void with_and_without_quanta(void) {
  const int32_t before = fake.limits.piece_units, workers = fake.limits.workers;
  for (int32_t quanta = 0; quanta < 2; ++quanta) {
    fixture f;
    fixture_init(&f, SMALL);
    f.decode.flags = FLASHMLA_BATCH_INVARIANT | FLASHMLA_DEFAULT_SCALE;
    fake.limits.workers = 8; /* one for each tile */
    fake.limits.piece_units = quanta > 0 ? before : 0;
    fixture_use_plan(&f, 0);
    CHECK_OK(flashmla_dense_decode(&f.decode));
    fake.limits.piece_units = quanta > 0 ? 0 : before;
    CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_PLAN_MISMATCH,
                 "plan was made for a kernel with 8 tiles of 1 row blocks in 8 parts, the call's has 8 of 1 in 8;");
    fixture_free(&f);
  }
  fake.limits.piece_units = before;
  fake.limits.workers = workers;
  fake.cpu_decodes = 0;
}

/* A copy works while the buffer lives; the backend gets the plan's buffer and its splits. */
static void copies(int32_t device_type) {
  fixture f;
  fixture_init(&f, SMALL);
  fixture_set_device(&f, device_type, 0);
  fixture_use_plan(&f, 7);
  const flashmla_plan copy = f.plan;
  memset(&f.plan, 0, sizeof f.plan);
  f.decode.plan = &copy;
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK(fake.decode.attention.schedule.cuts == f.plan_params.buffer && !fake.decode.attention.own_plan);
  CHECK(fake.decode.attention.tiling.num_splits == 7 &&
        fake.decode.attention.tiling.num_parts == 7 * fake.decode.attention.tiling.num_tiles);
  CHECK(fake.decode.attention.partials.rows == f.decode.workspace);
  fixture_free(&f);
}

int main(void) {
  other_shapes();
  other_flags_and_devices();
  never_made();
  damaged(kDLCPU);
  damaged(kDLCUDA);
  damaged_twice();
  what_a_plan_leaves_open();
  plan_of_an_empty_call();
  other_number_of_parts();
  other_tiles();
  with_and_without_quanta();
  copies(kDLCPU);
  copies(kDLCUDA);
  CHECK(fake.cuda_plans == 1 && fake.cuda_decodes == 1 && fake.cpu_decodes == 1);
  return 0;
}
