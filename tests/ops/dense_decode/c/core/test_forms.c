/* The rules of what a call may be beside the plain one: variable-length queries, geometries, page sizes, dtypes of the
 * result, shards, flags; and what they hand to a backend. */
#include <math.h>

#include "refused.h"

static void variable_length_rules(void) {
  ACCEPTED_VARLEN((void)f);
  ACCEPTED_VARLEN(f.decode.lse = NULL);
  REFUSED_VARLEN(VALUE, "params.max_seqlen_q is 0; with cu_seqlens_q it must be > 0", f.decode.max_seqlen_q = 0);
  REFUSED_VARLEN(VALUE, "params.max_seqlen_q is -1", f.decode.max_seqlen_q = -1);
  REFUSED(VALUE, "params.max_seqlen_q is 2; without cu_seqlens_q it must be 0", f.decode.max_seqlen_q = 2);
  REFUSED_VARLEN(VALUE, "without cu_seqlens_q it must be 0", f.decode.cu_seqlens_q = NULL);
  REFUSED_VARLEN(SHAPE, "q.ndim is 4; with cu_seqlens_q it must be 3 (total_q, h_q, d_qk)", f.tensor[Q].ndim = 4);
  REFUSED_VARLEN(SHAPE, "lse.ndim is 3; with cu_seqlens_q it must be 2 (h_q, total_q)", f.tensor[LSE].ndim = 3);
  REFUSED(SHAPE, "q.ndim is 3; it must be 4", f.tensor[Q].ndim = 3);
  REFUSED_VARLEN(SHAPE, "out.shape[0] is 6, q.shape[0] (total_q) is 7; they must be equal", f.shape[OUT][0] = 6);
  REFUSED_VARLEN(SHAPE, "lse.shape[1] is 8, q.shape[0] (total_q) is 7", f.shape[LSE][1] = 8);
  REFUSED_VARLEN(SHAPE, "cache_seqlens.shape[0] is 3, block_table.shape[0] (batch) is 4",
                 f.shape[CACHE_SEQLENS][0] = 3);
  REFUSED_VARLEN(
      SHAPE, "cu_seqlens_q.shape[0] is 4, block_table.shape[0] (batch) is 4; cu_seqlens_q.shape[0] must be batch + 1",
      f.shape[CU_SEQLENS_Q][0] = 4);
  REFUSED_VARLEN(SHAPE, "cu_seqlens_q.ndim is 2", f.tensor[CU_SEQLENS_Q].ndim = 2);
  REFUSED_VARLEN(DTYPE, "cu_seqlens_q.dtype is int64; it must be int32", f.tensor[CU_SEQLENS_Q].dtype.bits = 64);
  REFUSED_VARLEN(MIXED_DEVICES, "cu_seqlens_q is on cuda:0", f.tensor[CU_SEQLENS_Q].device.device_type = kDLCUDA);
  REFUSED_VARLEN(STRIDE, "cu_seqlens_q.strides[0] is 2", f.strides[CU_SEQLENS_Q][0] = 2);
  REFUSED_VARLEN(NULL_POINTER, "cu_seqlens_q.data is NULL", free(f.tensor[CU_SEQLENS_Q].data);
                 f.tensor[CU_SEQLENS_Q].data = NULL);
  REFUSED_VARLEN(SHAPE, "q.shape[1] (h_q) is 6, kv_cache.shape[2] (h_kv) is 4", f.shape[KV_CACHE][2] = 4);
  REFUSED_VARLEN(SHAPE, "q.shape[0] (total_q) is -1; it must be >= 0", f.shape[Q][0] = -1);
  PLAN_REFUSED_OF(SMALL_VARLEN, VALUE, "params.max_seqlen_q is 0", f.plan_params.max_seqlen_q = 0);
  PLAN_REFUSED_OF(SMALL_VARLEN, SHAPE, "; cu_seqlens_q.shape[0] must be batch + 1", f.shape[CU_SEQLENS_Q][0] = 6);
  PLAN_REFUSED_OF(SMALL_VARLEN, NULL_POINTER, "cu_seqlens_q.data is NULL", free(f.tensor[CU_SEQLENS_Q].data);
                  f.tensor[CU_SEQLENS_Q].data = NULL);
}

static void variable_length_call(void) {
  fixture f;
  fixture_init(&f, SMALL_VARLEN);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  const fm_attention *a = &fake.decode.attention;
  const fm_work *w = &a->work;
  CHECK(w->varlen && w->batch == 4 && w->s_q == 2 && w->total_q == 7 && w->h_q == 6);
  CHECK(w->cu_seqlens_q == f.tensor[CU_SEQLENS_Q].data && a->tiling.request_major);
  const int64_t *q = fake.decode.attention.queries.stride, *out = a->output.out_stride, *lse = a->output.lse_stride;
  CHECK(q[0] == 0 && q[1] == 6 * 576 && q[2] == 576);
  CHECK(out[0] == 0 && out[1] == 6 * 512 && out[2] == 512);
  CHECK(lse[0] == 0 && lse[1] == 7 && lse[2] == 1);
  const uint64_t size = f.decode.workspace_size;
  free(f.tensor[CU_SEQLENS_Q].data);
  f.tensor[CU_SEQLENS_Q].data = NULL; /* the size queries do not look at it */
  uint64_t bytes = 0;
  CHECK_OK(flashmla_dense_decode_workspace_size(&f.decode, &bytes));
  CHECK(bytes == size);
  fake_launches();
  fixture_free(&f);
}

static void geometries(void) {
  enum { OF_KERNELS = 5, ALL = 6 };
  const int64_t d_qk[ALL] = {576, 512, 320, 288, 160, 1088}, d_v[ALL] = {512, 512, 256, 256, 128, 1024};
  for (int i = 0; i < ALL; ++i) {
    geometry g = SMALL;
    g.d_qk = d_qk[i];
    ACCEPTED_OF(g, kDLCPU, (void)f);
    CHECK(fake.decode.attention.queries.d_qk == d_qk[i] && fake.decode.attention.d_v == d_v[i]);
    if (i >= OF_KERNELS) continue;
    ACCEPTED_OF(g, kDLCUDA, fixture_use_plan(&f, 3));
    CHECK(fake.decode.attention.queries.d_qk == d_qk[i] && fake.decode.attention.d_v == d_v[i]);
    const fm_tiling *t = &fake.decode.attention.tiling;
    CHECK(fake.decode.attention.partials.facts - (float *)fake.decode.attention.partials.rows ==
          (ptrdiff_t)t->num_parts * t->cluster * 64 * d_v[i]);
  }
  REFUSED(UNSUPPORTED, "q.shape[3] (d_qk) is 575; supported are 576, 512, 320, 288, 160 and 1088",
          f.shape[Q][3] = f.shape[KV_CACHE][3] = 575);
  REFUSED_ON_CUDA(UNSUPPORTED, "q.shape[3] (d_qk) is 1088; supported on CUDA are 576, 512, 320, 288 and 160",
                  f.shape[Q][3] = f.shape[KV_CACHE][3] = 1088);
  REFUSED(SHAPE, "out.shape[3] (d_v) is 256; with d_qk 576 it must be 512", f.shape[OUT][3] = 256);
  REFUSED_VARLEN(UNSUPPORTED, "q.shape[2] (d_qk) is 64;", f.shape[Q][2] = f.shape[KV_CACHE][3] = 64);
  REFUSED_VARLEN(SHAPE, "out.shape[2] (d_v) is 576;", f.shape[OUT][2] = 576);
  PLAN_REFUSED(UNSUPPORTED, "q.shape[3] (d_qk) is 192;", f.shape[Q][3] = f.shape[KV_CACHE][3] = 192);
}

static void page_sizes(void) {
  const int64_t sizes[] = {1, 2, 3, 16, 24, 63, 64, 65, 96, 160, 256};
  for (int i = 0; i < 11; ++i) {
    geometry g = SMALL;
    g.page_size = sizes[i];
    ACCEPTED_OF(g, kDLCPU, (void)f);
    CHECK(fake.decode.attention.work.capacity == 3 * sizes[i]);
    ACCEPTED_OF(g, kDLCUDA, (void)f);
    CHECK(fake.decode.attention.work.capacity == 3 * sizes[i]);
  }
}

/* Strides and offsets are 64-bit throughout, and a table may hold more tokens than a length can say; nothing is read
 * here. */
static void large_caches(void) {
  ACCEPTED_ON_CUDA(f.shape[KV_CACHE][0] = 1 << 18; f.tensor[KV_CACHE].strides = NULL);
  CHECK(fake.decode.paged.pages.num_blocks == 1 << 18 && fake.decode.paged.pages.block_step == 2 * 64 * 2 * 576);
  ACCEPTED_ON_CUDA(f.strides[KV_CACHE][0] = INT64_C(1) << 36); /* of 5 blocks of 2 bytes: 640 GB */
  CHECK(fake.decode.paged.pages.block_step == INT64_C(2) << 36);
  /* A page beyond 64 rows is read 64 rows at a time, a stride that the whole page's bound covers. */
  ACCEPTED_ON_CUDA(f.shape[KV_CACHE][1] = 256; f.strides[KV_CACHE][1] = INT64_C(1) << 30;
                   fixture_allocate_workspace(&f));
  REFUSED_ON_CUDA(OVERFLOW, "on CUDA it must be < 2^40 bytes", f.shape[KV_CACHE][1] = 256;
                  f.strides[KV_CACHE][1] = INT64_C(1) << 31);
  ACCEPTED_ON_CUDA(f.shape[BLOCK_TABLE][1] = INT32_MAX; f.tensor[BLOCK_TABLE].strides = NULL;
                   fixture_allocate_workspace(&f));
  CHECK(fake.decode.attention.work.capacity == INT32_MAX && fake.decode.paged.max_blocks == INT32_MAX);
}

static void result_dtypes(void) {
  geometry g = SMALL;
  ACCEPTED_ON_CUDA((void)f);
  CHECK(fake.decode.attention.output.dtype == FM_BF16);
  ACCEPTED_ON_CUDA(f.tensor[OUT].dtype = FP32);
  CHECK(fake.decode.attention.queries.dtype == FM_BF16 && fake.decode.attention.output.dtype == FM_FP32);
  g.dtype = FP16;
  ACCEPTED_OF(g, kDLCPU, f.tensor[OUT].dtype = FP32);
  CHECK(fake.decode.attention.queries.dtype == FM_FP16 && fake.decode.attention.output.dtype == FM_FP32);
  REFUSED(ALIGNMENT, "out.strides[2] is 514 elements (2056 bytes)", f.tensor[OUT].dtype = FP32;
          f.strides[OUT][2] = 514);
  g.dtype = FP32;
  REFUSED_OF(g, kDLCPU, FLASHMLA_ERROR_DTYPE, "out.dtype is bfloat16, q.dtype is float32", f.tensor[OUT].dtype = BF16);
}

static void shard(fixture *f, int32_t rank, int32_t world, int32_t interleave) {
  f->decode.cp_rank = rank;
  f->decode.cp_world = world;
  f->decode.cp_interleave = interleave;
  f->decode.global_seqlens = &f->tensor[GLOBAL_SEQLENS];
}

static void shards(void) {
  ACCEPTED(shard(&f, 2, 3, 16));
  const fm_mask *m = &fake.decode.attention.mask;
  CHECK(m->cp_rank == 2 && m->cp_world == 3 && m->cp_interleave == 16 && m->global_seqlens != NULL);
  ACCEPTED(shard(&f, 0, 1, 1));
  ACCEPTED(shard(&f, INT32_MAX - 1, INT32_MAX, INT32_MAX));
  REFUSED(VALUE, "params.cp_world is -1", shard(&f, 0, -1, 1));
  REFUSED(VALUE, "params.cp_rank is 3; it must be in [0, 3)", shard(&f, 3, 3, 16));
  REFUSED(VALUE, "params.cp_rank is -1", shard(&f, -1, 3, 16));
  REFUSED(VALUE, "params.cp_interleave is 0; with cp_world 3 it must be > 0", shard(&f, 1, 3, 0));
  REFUSED(NULL_POINTER, "global_seqlens is NULL; with params.cp_world 2 it is required", shard(&f, 1, 2, 4);
          f.decode.global_seqlens = NULL);
  REFUSED(VALUE, "global_seqlens is given; with params.cp_world 0 it must be left out", shard(&f, 0, 0, 0));
  REFUSED(VALUE, "params.cp_rank is 1; with cp_world 0 it must be 0", f.decode.cp_rank = 1);
  REFUSED(VALUE, "params.cp_interleave is 4; with cp_world 0 it must be 0", f.decode.cp_interleave = 4);
  REFUSED(SHAPE, "global_seqlens.shape[0] is 5", shard(&f, 0, 2, 4); f.shape[GLOBAL_SEQLENS][0] = 5);
  REFUSED(DTYPE, "global_seqlens.dtype is float32", shard(&f, 0, 2, 4); f.tensor[GLOBAL_SEQLENS].dtype = FP32);
  REFUSED(STRIDE, "global_seqlens.strides[0] is 3", shard(&f, 0, 2, 4); f.strides[GLOBAL_SEQLENS][0] = 3);
}

static void flags(void) {
  ACCEPTED((void)f);
  CHECK(!fake.decode.attention.output.lse_base2 && fake.decode.attention.output.empty_lse == INFINITY);
  CHECK(!fake.decode.attention.work.batch_invariant && fake.decode.attention.tiling.piece_units == 0);
  ACCEPTED(f.decode.flags = FLASHMLA_LSE_BASE2 | FLASHMLA_EMPTY_LSE_MINUS);
  CHECK(fake.decode.attention.output.lse_base2 && fake.decode.attention.output.empty_lse == -INFINITY);
  PLAN_REFUSED(VALUE, "params.num_splits is 4; with FLASHMLA_BATCH_INVARIANT it must be 0",
               f.plan_params.num_splits = 4;
               f.plan_params.flags = FLASHMLA_BATCH_INVARIANT);
}

/* A table of 3 pages of 64 needs no second piece of 16 pages; one of 40 pages has three, of which all but one of the
 * tiles may be cut. */
static void batch_invariant(void) {
  geometry g = SMALL;
  ACCEPTED_OF(g, kDLCPU, f.decode.flags = FLASHMLA_BATCH_INVARIANT; fixture_allocate_workspace(&f));
  CHECK(fake.decode.attention.work.batch_invariant && fake.decode.attention.tiling.slots == 0 &&
        fake.decode.attention.partials.rows == NULL);
  g.max_blocks = 40;
  fixture f;
  fixture_init(&f, g);
  f.decode.flags = FLASHMLA_BATCH_INVARIANT;
  fixture_allocate_workspace(&f);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  const fm_tiling *t = &fake.decode.attention.tiling;
  CHECK(t->num_splits == 0 && t->piece_units == 16 && t->num_parts == 3 * t->num_tiles);
  CHECK(t->slots == 3 * t->num_tiles + 2 * t->num_parts);
  CHECK(fake.decode.attention.own_plan && fake.decode.attention.partials.rows != NULL);
  const fm_schedule *s = &fake.decode.attention.schedule;
  CHECK((char *)s->first_slot == (char *)(s->cuts + t->num_parts + 1));
  CHECK((char *)s->cost_before >= (char *)(s->first_slot + t->num_parts + 2));
  fixture_use_plan(&f, 0);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK(fake.decode.attention.work.batch_invariant && t->num_splits == 0 && t->piece_units == 16 &&
        !fake.decode.attention.own_plan);
  fake_launches();
  fixture_free(&f);
}

int main(void) {
  variable_length_rules();
  variable_length_call();
  geometries();
  page_sizes();
  large_caches();
  result_dtypes();
  shards();
  flags();
  batch_invariant();
  return 0;
}
