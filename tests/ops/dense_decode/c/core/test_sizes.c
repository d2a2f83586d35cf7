/* The size queries and the tiling they rest on. */
#include "check.h"
#include "fake_backend.h"
#include "fixture.h"

static fm_tiling tile(geometry g, int32_t num_splits, fm_layout *layout, bool own_plan) {
  const fm_work work = {.batch = (int32_t)g.batch,
                        .s_q = (int32_t)g.s_q,
                        .h_q = (int32_t)g.h_q,
                        .h_kv = (int32_t)g.h_kv,
                        .capacity = (int32_t)(g.page_size * g.max_blocks),
                        .num_splits = num_splits};
  fm_tiling tiling;
  CHECK_OK(fm_tile(&work, fake.limits, 512, &tiling));
  CHECK_OK(fm_lay_out(&work, &tiling, 512, own_plan, layout));
  return tiling;
}

/* Every (token, head) row has a place in a block, and no block is superfluous. */
static void blocks_cover_the_rows(void) {
  const int32_t groups[] = {1, 2, 3, 16, 48, 63, 64, 65, 100, 127, 128, 129, 500},
                tokens[] = {1, 2, 3, 7, 64, 65, 1000};
  for (size_t i = 0; i < sizeof groups / sizeof groups[0]; ++i)
    for (size_t j = 0; j < sizeof tokens / sizeof tokens[0]; ++j) {
      fm_layout layout;
      const fm_tiling t = tile((geometry){3, tokens[j], groups[i] * 2, 2, 9, 64, 100, .dtype = BF16}, 0, &layout, true);
      CHECK(t.group == groups[i] && t.block_heads * t.block_tokens <= t.block_rows);
      CHECK(t.head_chunks * t.block_heads >= t.group && (t.head_chunks - 1) * t.block_heads < t.group);
      CHECK(t.blocks % t.head_chunks == 0);
      const int32_t token_groups = t.blocks / t.head_chunks;
      CHECK(token_groups * t.block_tokens >= tokens[j] && (token_groups - 1) * t.block_tokens < tokens[j]);
      CHECK(t.cluster == (t.blocks > 1 ? 2 : 1) && t.tiles_per_head == (t.blocks + t.cluster - 1) / t.cluster);
      CHECK(t.tiles_per_request == 2 * t.tiles_per_head && t.num_tiles == 3 * t.tiles_per_request);
      CHECK(t.num_parts >= 1 && t.num_parts <= 132 / t.cluster);
    }
}

static void buffers_do_not_overlap(void) {
  const int32_t splits[] = {0, 1, 2, 32};
  for (int own_plan = 0; own_plan < 2; ++own_plan)
    for (int i = 0; i < 4; ++i) {
      fm_layout l;
      const fm_tiling t = tile((geometry){5, 3, 128, 1, 9, 64, 100, .dtype = BF16}, splits[i], &l, own_plan);
      CHECK(l.plan_cost_offset >= (uint64_t)(t.num_parts + 1) * sizeof(fm_cut) && l.plan_cost_offset % 16 == 0);
      CHECK(l.plan_bytes >= l.plan_cost_offset + 6 * sizeof(int64_t) && l.plan_bytes % 16 == 0);
      CHECK(l.partial_offset == (own_plan ? l.plan_bytes : 0) && l.workspace_bytes % 16 == 0);
      const uint64_t slots = splits[i] == 1 ? 0 : (splits[i] == 0 ? 2 : 1) * (uint64_t)t.num_parts;
      const uint64_t rows = slots * t.cluster * t.block_rows;
      CHECK(l.partial_facts_offset - l.partial_offset == rows * 512 * 4);
      CHECK(l.workspace_bytes - l.partial_facts_offset == rows * 4);
    }
}

/* One request of one page: no more parts than its cost has units. */
static void small_work_has_few_parts(void) {
  fm_layout layout;
  CHECK(tile((geometry){1, 1, 16, 1, 1, 64, 1, .dtype = BF16}, 0, &layout, true).num_parts ==
        1 + fake.limits.start_overhead);
  fake.limits.workers = 1;
  CHECK(tile((geometry){1, 1, 128, 1, 9, 64, 100, .dtype = BF16}, 0, &layout, true).num_parts == 1);
  CHECK(layout.workspace_bytes == layout.plan_bytes);
  fake.limits.workers = 132;
}

/* Pieces of 16 units, the first 8, then of 32: their number follows from the table. The last unit may be a single
 * token.
 */
static void invariant_pieces(void) {
  const int32_t units[] = {1, 15, 16, 17, 32, 33, 128, 129, 160, 161, 992, 993};
  const int32_t pieces[] = {1, 1, 1, 2, 2, 3, 8, 9, 9, 10, 35, 36};
  for (int i = 0; i < 12; ++i)
    for (int32_t lacking = 0; lacking <= 63; lacking += 63) {
      const int32_t capacity = units[i] * 64 - lacking, quanta = (units[i] + 15) / 16;
      const fm_work work = {.batch = 3, .s_q = 1, .h_q = 16, .h_kv = 1, .capacity = capacity, .batch_invariant = true};
      fm_tiling t;
      fm_layout l;
      CHECK_OK(fm_tile(&work, fake.limits, 512, &t));
      CHECK_OK(fm_lay_out(&work, &t, 512, false, &l));
      CHECK(t.num_splits == 0 && t.piece_units == 16 && t.unit == 64 && t.carries == 2);
      CHECK(t.num_parts == (3 * quanta < 132 ? 3 * quanta : 132));
      const int32_t cut = t.num_parts - 1 < 3 ? t.num_parts - 1 : 3; /* tiles, at most */
      CHECK(t.slots == (pieces[i] == 1 ? 0 : cut * pieces[i] + 2 * t.num_parts));
      CHECK(fm_may_split(&t) == (pieces[i] > 1));
      CHECK(l.partial_facts_offset == (uint64_t)t.slots * t.block_rows * 512 * 4);
      CHECK(l.plan_cost_offset >= (t.num_parts + 1) * sizeof(fm_cut) + (t.num_parts + 2) * sizeof(int32_t));
    }
}

/* Twice the rows in float32 and 64 MiB, however long the tables are and however the queries lie; and a plan of a few
 * integers a part and a request. */
static void invariant_scratch_is_capped(void) {
  const fm_work chunk = {.batch = 256, .s_q = 8192, .varlen = true, .total_q = 8192 + 255};
  const fm_work prompt = {.batch = 1, .s_q = 8192}, drafts = {.batch = 512, .s_q = 4}, step = {.batch = 256, .s_q = 1};
  const fm_work no_limit = {.batch = 1 << 14, .s_q = 1 << 14, .varlen = true, .total_q = 1 << 14};
  const fm_work works[] = {chunk, prompt, drafts, step, no_limit};
  const int32_t heads[] = {1, 16, 128}, tables[] = {4096, 163840, 1 << 20, INT32_MAX}, rows_of_block[] = {64, 128};
  for (int i = 0; i < 5 * 3 * 4 * 2; ++i) {
    fm_work work = works[i % 5];
    fm_limits limits = fake.limits;
    fm_tiling t;
    fm_layout l;
    work.h_q = heads[i / 5 % 3];
    work.h_kv = 1;
    work.capacity = tables[i / 15 % 4];
    work.batch_invariant = true;
    limits.block_rows = rows_of_block[i / 60];
    CHECK_OK(fm_tile(&work, limits, 512, &t));
    CHECK_OK(fm_lay_out(&work, &t, 512, false, &l));
    const int64_t tokens = work.varlen ? work.total_q : (int64_t)work.batch * work.s_q;
    CHECK(l.workspace_bytes <= (uint64_t)(2 * 4 * 512 * tokens * work.h_q) + (64 << 20));
    CHECK(l.plan_bytes <= (uint64_t)(12 * (t.num_parts + 4) + 8 * (work.batch + 4)) && t.num_parts <= 132);
    CHECK(t.slots >= 2 * t.num_parts);
  }
}

static void data_is_not_looked_at(void) {
  fixture f;
  fixture_init(&f, SMALL);
  const uint64_t workspace = f.decode.workspace_size, buffer = f.plan_params.buffer_size;
  for (int i = 0; i < TENSORS; ++i) {
    free(f.tensor[i].data);
    f.tensor[i].data = NULL;
  }
  f.decode.softmax_scale = -1.0f;
  uint64_t bytes = 0;
  CHECK_OK(flashmla_dense_decode_workspace_size(&f.decode, &bytes));
  CHECK(bytes == workspace);
  CHECK_OK(flashmla_plan_decode_size(&f.plan_params, &bytes));
  CHECK(bytes == buffer);
  fixture_free(&f);
}

/* Where no request is split there are no partial results: the size is 0, and NULL is a workspace. */
static void no_workspace(int32_t device_type) {
  fixture f;
  fixture_init(&f, SMALL);
  fixture_set_device(&f, device_type, 0);
  fixture_use_plan(&f, 1);
  CHECK(f.decode.workspace_size == 0);
  free(f.decode.workspace);
  f.decode.workspace = NULL;
  CHECK_OK(flashmla_dense_decode(&f.decode));
  flashmla_prepared *prepared;
  CHECK_OK(flashmla_dense_decode_prepare(&f.decode, &prepared));
  CHECK_OK(flashmla_dense_decode_run(prepared, &f.decode));
  flashmla_prepared_free(prepared);
  fixture_free(&f);
}

/* More than total_q query tokens no request has: such a limit is as good as none, and neither sizes nor tiles follow
 * it.
 */
static void limit_beyond_all_tokens(int32_t device_type, uint32_t flags, int32_t num_splits) {
  fixture f;
  geometry g = SMALL_VARLEN;
  g.s_q = g.total_q;
  fixture_init(&f, g);
  fixture_set_device(&f, device_type, 0);
  f.decode.flags = f.plan_params.flags = flags;
  f.plan_params.num_splits = num_splits;
  uint64_t workspace[2], buffer[2];
  for (int i = 0; i < 2; ++i) {
    CHECK_OK(flashmla_dense_decode_workspace_size(&f.decode, &workspace[i]));
    CHECK_OK(flashmla_plan_decode_size(&f.plan_params, &buffer[i]));
    f.decode.max_seqlen_q = f.plan_params.max_seqlen_q = INT32_MAX;
  }
  CHECK(workspace[0] == workspace[1] && buffer[0] == buffer[1]);
  fixture_use_plan(&f, num_splits);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK(fake.plan.attention.work.s_q == 7 && fake.decode.attention.work.s_q == 7);
  flashmla_prepared *prepared;
  CHECK_OK(flashmla_dense_decode_prepare(&f.decode, &prepared));
  CHECK_OK(flashmla_dense_decode_run(prepared, &f.decode));
  CHECK(fake.again && fake.decode.attention.work.s_q == 7);
  flashmla_prepared_free(prepared);
  fixture_free(&f);
}

static void errors_leave_the_result(void) {
  fixture f;
  fixture_init(&f, SMALL);
  uint64_t bytes = 42;
  CHECK_STATUS(flashmla_dense_decode_workspace_size(&f.decode, NULL), FLASHMLA_ERROR_NULL_POINTER, "bytes is NULL");
  CHECK_STATUS(flashmla_plan_decode_size(&f.plan_params, NULL), FLASHMLA_ERROR_NULL_POINTER, "bytes is NULL");
  f.shape[BLOCK_TABLE][0] = 3;
  CHECK_STATUS(flashmla_dense_decode_workspace_size(&f.decode, &bytes), FLASHMLA_ERROR_SHAPE, "block_table");
  CHECK_STATUS(flashmla_plan_decode_size(&f.plan_params, &bytes), FLASHMLA_ERROR_SHAPE, "block_table");
  CHECK(bytes == 42);
  fixture_free(&f);
}

/* A tile of a cluster may have a block behind the last one, whose tokens are numbered all the same. */
static void too_many_tokens(void) {
  const int32_t most = INT32_MAX - 128, groups[] = {1, 16, 64};
  for (int i = 0; i < 3; i++) {
    fm_work work = {.batch = 1, .s_q = most, .h_q = groups[i], .h_kv = 1, .capacity = 1};
    fm_tiling t;
    CHECK_OK(fm_tile(&work, fake.limits, 512, &t));
    const int64_t last_block = (int64_t)t.tiles_per_head * t.cluster - 1;
    CHECK((last_block / t.head_chunks + 1) * t.block_tokens + t.block_rows <= INT32_MAX);
    ++work.s_q;
    CHECK_STATUS(fm_tile(&work, fake.limits, 512, &t), FLASHMLA_ERROR_OVERFLOW, "2147483520 query tokens");
  }
}

/* Tiles and slots are numbered in 32 bits. */
static void too_much_work(void) {
  const int64_t most = INT32_MAX;
  const fm_limits limits = fake.limits;
  const fm_work rows = {.batch = 1, .s_q = (int32_t)most - 128, .h_q = 1 << 20, .h_kv = 1, .capacity = 1};
  const fm_work heads = {.batch = 1, .s_q = 1 << 20, .h_q = 1 << 20, .h_kv = 1 << 20, .capacity = 1};
  const fm_work requests = {.batch = (int32_t)most, .s_q = 1, .h_q = 512, .h_kv = 1, .capacity = 1};
  fm_work splits = {.batch = 1 << 21, .s_q = 1, .h_q = 1, .h_kv = 1, .capacity = 1, .num_splits = 1024};
  fm_tiling tiling;
  fm_layout layout;
  CHECK_STATUS(fm_tile(&rows, limits, 512, &tiling), FLASHMLA_ERROR_OVERFLOW, "2^31");
  CHECK_STATUS(fm_tile(&heads, limits, 512, &tiling), FLASHMLA_ERROR_OVERFLOW, "2^31");
  CHECK_STATUS(fm_tile(&requests, limits, 512, &tiling), FLASHMLA_ERROR_OVERFLOW, "2^31");
  CHECK_STATUS(fm_tile(&splits, limits, 512, &tiling), FLASHMLA_ERROR_OVERFLOW, "num_splits is 1024");
  splits.num_splits = 512;
  CHECK_OK(fm_tile(&splits, limits, 512, &tiling));
  CHECK_STATUS(fm_lay_out(&splits, &tiling, 512, true, &layout), FLASHMLA_ERROR_OVERFLOW, "fewer than 2^30");
  /* One split a tile has no partials, but slots are numbered all the same. */
  fm_work whole = {.batch = 1 << 30, .s_q = 1, .h_q = 1, .h_kv = 1, .capacity = 1, .num_splits = 1};
  CHECK_OK(fm_tile(&whole, limits, 512, &tiling));
  CHECK_STATUS(fm_lay_out(&whole, &tiling, 512, true, &layout), FLASHMLA_ERROR_OVERFLOW, "fewer than 2^30");
  --whole.batch;
  CHECK_OK(fm_tile(&whole, limits, 512, &tiling));
  CHECK_OK(fm_lay_out(&whole, &tiling, 512, true, &layout));
  fm_work apart = {.batch = 1 << 27, .s_q = 1, .h_q = 1, .h_kv = 1, .capacity = 1, .extra_capacity = 1, .apart = true};
  CHECK_OK(fm_tile(&apart, limits, 512, &tiling));
  CHECK_STATUS(fm_lay_out(&apart, &tiling, 512, true, &layout), FLASHMLA_ERROR_OVERFLOW, "fewer than 2^28");
  --apart.batch;
  CHECK_OK(fm_tile(&apart, limits, 512, &tiling));
  CHECK_OK(fm_lay_out(&apart, &tiling, 512, true, &layout));
}

int main(void) {
  blocks_cover_the_rows();
  buffers_do_not_overlap();
  small_work_has_few_parts();
  invariant_pieces();
  invariant_scratch_is_capped();
  data_is_not_looked_at();
  no_workspace(kDLCPU);
  no_workspace(kDLCUDA);
  limit_beyond_all_tokens(kDLCPU, 0, 0);
  limit_beyond_all_tokens(kDLCUDA, 0, 3);
  limit_beyond_all_tokens(kDLCPU, FLASHMLA_BATCH_INVARIANT, 0);
  limit_beyond_all_tokens(kDLCUDA, FLASHMLA_BATCH_INVARIANT, 0);
  errors_leave_the_result();
  too_many_tokens();
  too_much_work();
  return 0;
}
