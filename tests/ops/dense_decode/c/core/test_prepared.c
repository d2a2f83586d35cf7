/* Prepared calls of dense_decode: what a run hands to a backend, what it looks at, and what it refuses. */
#include <math.h>

#include "../prepared.h"

/* What a backend is given is the same. */
static void check_same(const fm_dense_decode *a, const fm_dense_decode *b) {
#define SAME(member) (memcmp(&a->member, &b->member, sizeof a->member) == 0)
  CHECK(SAME(attention.work.batch) && SAME(attention.work.s_q) && SAME(attention.work.h_q) &&
        SAME(attention.work.h_kv));
  CHECK(SAME(attention.work.varlen) && SAME(attention.work.total_q) && SAME(attention.work.capacity));
  CHECK(SAME(attention.work.cu_seqlens_q) && SAME(attention.work.lengths));
  CHECK(SAME(attention.work.batch_invariant) && SAME(attention.work.num_splits));
  CHECK(SAME(attention.mask.causal) && SAME(attention.mask.cp_rank) && SAME(attention.mask.cp_world));
  CHECK(SAME(attention.mask.cp_interleave) && SAME(attention.mask.global_seqlens));
  CHECK(SAME(attention.output.dtype) && SAME(attention.output.out) && SAME(attention.output.out_stride));
  CHECK(SAME(attention.output.lse) && SAME(attention.output.lse_stride));
  CHECK(SAME(attention.output.lse_base2) && SAME(attention.output.empty_lse) && SAME(attention.d_v));
  CHECK(SAME(attention.tiling.cluster) && SAME(attention.tiling.num_tiles) && SAME(attention.tiling.num_parts));
  CHECK(SAME(attention.tiling.num_splits) && SAME(attention.tiling.piece_units) &&
        SAME(attention.tiling.request_major));
  CHECK(SAME(attention.layout) && SAME(attention.schedule) && SAME(attention.partials));
  CHECK(SAME(attention.queries.dtype) && SAME(paged.pages.dtype) && SAME(attention.queries.d_qk) &&
        SAME(paged.pages.num_blocks) && SAME(paged.pages.page_size));
  CHECK(SAME(paged.max_blocks) && SAME(attention.queries.data) && SAME(attention.queries.stride) &&
        SAME(paged.pages.data) && SAME(paged.pages.block_step) && SAME(paged.pages.row_step) &&
        SAME(paged.pages.head_step));
  CHECK(SAME(paged.block_table) && SAME(paged.block_table_stride));
  CHECK(SAME(attention.queries.softmax_scale) && SAME(attention.queries.scale_log2) && SAME(num_threads) &&
        SAME(stream) && SAME(attention.own_plan));
#undef SAME
}

/* All that a run must not look at. */
static void scramble(fixture *f) {
  for (int i = 0; i < TENSORS; ++i) {
    f->tensor[i].device.device_type = 55;
    f->tensor[i].ndim = -1;
    f->tensor[i].dtype = (DLDataType){77, 168, 0}; /* alignment is that of the prepared call, too */
    f->tensor[i].shape = f->tensor[i].strides = NULL;
  }
  f->decode.flags = UINT32_MAX;
  f->decode.softmax_scale = NAN;
  f->decode.num_threads = f->decode.max_seqlen_q = -1;
  f->decode.cp_rank = f->decode.cp_world = f->decode.cp_interleave = -1;
}

/* A run gives a backend what the plain call does, whatever else has become of the tensors. */
static void run_is_the_call(form form) {
  flashmla_prepared *prepared = prepared_of(form);
  for (int round = 0; round < 2; ++round) {
    fixture f;
    init(&f, form);
    f.tensor[Q].byte_offset = 48;
    f.tensor[KV_CACHE].byte_offset = 16;
    f.tensor[BLOCK_TABLE].byte_offset = 4;
    f.decode.stream = &f;
    CHECK_OK(flashmla_dense_decode(&f.decode));
    const fm_dense_decode plain = fake.decode;
    memset(&fake.decode, 0, sizeof fake.decode);
    fake_launches();
    fake.prepares = 0;
    scramble(&f);
    fm_set_last_kernel("");
    CHECK_OK(flashmla_dense_decode_run(prepared, &f.decode));
    check_same(&plain, &fake.decode);
    CHECK((form.device == kDLCUDA ? fake.cuda_decodes : fake.cpu_decodes) == 1 && fake.again);
    CHECK(strcmp(flashmla_last_kernel(), form.device == kDLCUDA ? "fake_cuda" : "fake_cpu") == 0);
    CHECK(fake_launches() == 1 && fake.prepares == 0);
    fixture_free(&f);
  }
  flashmla_prepared_free(prepared);
}

static void presence(void) {
  REFUSED_RUN(PLAIN, NULL_POINTER, "q is NULL; the prepared call was with it", call.q = NULL);
  REFUSED_RUN(PLAIN, NULL_POINTER, "block_table is NULL; the prepared call was with it", call.block_table = NULL);
  REFUSED_RUN(PLANNED, NULL_POINTER, "out is NULL; the prepared call was with it", call.out = NULL);
  REFUSED_RUN(PLAIN, NULL_POINTER, "lse is NULL; the prepared call was with it", call.lse = NULL);
  REFUSED_RUN(SHARDED, NULL_POINTER, "lse is given; the prepared call was without it", call.lse = &f.tensor[LSE]);
  REFUSED_RUN(SHARDED, NULL_POINTER, "global_seqlens is NULL; the prepared call was with it",
              call.global_seqlens = NULL);
  REFUSED_RUN(PLAIN, NULL_POINTER, "global_seqlens is given; the prepared call was without it",
              call.global_seqlens = &f.tensor[GLOBAL_SEQLENS]);
  REFUSED_RUN(VARLEN, NULL_POINTER, "cu_seqlens_q is NULL; the prepared call was with it", call.cu_seqlens_q = NULL);
  REFUSED_RUN(PLAIN, NULL_POINTER, "cu_seqlens_q is given; the prepared call was without it",
              call.cu_seqlens_q = &f.tensor[CU_SEQLENS_Q]);
}

static void addresses(void) {
  DLTensor nowhere = {.data = NULL};
  REFUSED_RUN(PLAIN, NULL_POINTER, "kv_cache.data is NULL; it must point to the elements", call.kv_cache = &nowhere);
  REFUSED_RUN(SHARDED, NULL_POINTER, "global_seqlens.data is NULL", call.global_seqlens = &nowhere);
  REFUSED_RUN(PLAIN, ALIGNMENT, "q starts at address", f.tensor[Q].byte_offset = 8);
  REFUSED_RUN(PLANNED, ALIGNMENT, "out starts at address", f.tensor[OUT].byte_offset = 2);
  REFUSED_RUN(SHARDED, ALIGNMENT, "global_seqlens starts at address", f.tensor[GLOBAL_SEQLENS].byte_offset = 2);
  REFUSED_RUN(PLAIN, ALIGNMENT, "lse starts at address", f.tensor[LSE].byte_offset = 1);
  REFUSED_RUN(PLAIN, OVERFLOW, "q.byte_offset is ", f.tensor[Q].byte_offset = UINT64_MAX - 15);
  REFUSED_RUN(PLAIN, OVERFLOW, "; its 55296 bytes must end below address 2^64",
              f.tensor[Q].byte_offset = UINT64_MAX - 55279 - (uintptr_t)f.tensor[Q].data);
  REFUSED_RUN(PLAIN, OVERFLOW, "params.workspace is ", call.workspace = (void *)(UINTPTR_MAX - 15));
}

static void scratch(void) {
  REFUSED_RUN(PLAIN, NULL_POINTER, "params.workspace is NULL", call.workspace = NULL);
  REFUSED_RUN(PLAIN, ALIGNMENT, "params.workspace is", call.workspace = (char *)call.workspace + 8);
  REFUSED_RUN(PLAIN, WORKSPACE_TOO_SMALL, "params.workspace_size is", --call.workspace_size);
  REFUSED_RUN(PLANNED, WORKSPACE_TOO_SMALL, "params.workspace_size is", --call.workspace_size);
  run_is_the_call((form){SMALL, kDLCUDA, 1, .flags = 0}); /* needs none */
}

static void structs(void) {
  const uint32_t first = offsetof(flashmla_dense_decode_params, cu_seqlens_q); /* an old caller's */
  REFUSED_RUN(PLAIN, STRUCT_SIZE, "params.struct_size is 0", call.struct_size = 0);
  REFUSED_RUN(VARLEN, NULL_POINTER, "cu_seqlens_q is NULL", call.struct_size = first);
  fixture f;
  init(&f, PLAIN);
  flashmla_prepared *prepared = prepared_of(PLAIN);
  f.decode.struct_size = first;
  f.decode.cu_seqlens_q = f.decode.global_seqlens = (void *)1; /* behind its end */
  CHECK_OK(flashmla_dense_decode_run(prepared, &f.decode));
  CHECK(fake_launches() == 1);
  flashmla_prepared_free(prepared);
  CHECK_OK(flashmla_dense_decode_prepare(&f.decode, &prepared));
  struct {
    flashmla_dense_decode_params known;
    unsigned char later[8];
  } newer = {f.decode, {0}};
  newer.known.struct_size = sizeof newer;
  newer.known.cu_seqlens_q = newer.known.global_seqlens = NULL;
  CHECK_OK(flashmla_dense_decode_run(prepared, &newer.known));
  CHECK(fake_launches() == 1);
  newer.later[7] = 1;
  CHECK_STATUS(flashmla_dense_decode_run(prepared, &newer.known), FLASHMLA_ERROR_STRUCT_SIZE, "is not 0");
  no_run(&f);
  flashmla_prepared_free(prepared);
  fixture_free(&f);
}

static void pointers(void) {
  fixture f;
  init(&f, PLAIN);
  flashmla_prepared *prepared = prepared_of(PLAIN), *plan, *untouched = (void *)&f;
  CHECK_STATUS(flashmla_dense_decode_run(NULL, &f.decode), FLASHMLA_ERROR_NULL_POINTER,
               "prepared is NULL; flashmla_dense_decode_prepare makes it");
  CHECK_STATUS(flashmla_dense_decode_run(prepared, NULL), FLASHMLA_ERROR_NULL_POINTER, "params is NULL");
  CHECK_STATUS(flashmla_dense_decode_prepare(&f.decode, NULL), FLASHMLA_ERROR_NULL_POINTER,
               "prepared is NULL; the result goes there");
  CHECK_STATUS(flashmla_dense_decode_prepare(NULL, &untouched), FLASHMLA_ERROR_NULL_POINTER, "params is NULL");
  CHECK_OK(flashmla_plan_decode_prepare(&f.plan_params, &plan));
  CHECK_STATUS(flashmla_dense_decode_run(plan, &f.decode), FLASHMLA_ERROR_VALUE,
               "prepared is a call of plan_decode; it must be one of dense_decode");
  CHECK_STATUS(flashmla_plan_decode_run(prepared, &f.plan_params, &f.plan), FLASHMLA_ERROR_VALUE,
               "prepared is a call of dense_decode; it must be one of plan_decode");
  f.decode.softmax_scale = 0;
  CHECK_STATUS(flashmla_dense_decode_prepare(&f.decode, &untouched), FLASHMLA_ERROR_VALUE, "softmax_scale");
  f.decode.softmax_scale = 1;
  --f.decode.workspace_size;
  CHECK_STATUS(flashmla_dense_decode_prepare(&f.decode, &untouched), FLASHMLA_ERROR_WORKSPACE_TOO_SMALL, "workspace");
  CHECK(untouched == (void *)&f);
  no_run(&f);
  flashmla_prepared_free(plan);
  flashmla_prepared_free(prepared);
  flashmla_prepared_free(NULL);
  fixture_free(&f);
}

static void backend_refuses(void) {
  fixture f;
  init(&f, (form){SMALL, kDLCUDA, NO_PLAN, .flags = 0});
  flashmla_prepared *untouched = (void *)&f;
  fake.answer = FLASHMLA_ERROR_DRIVER;
  CHECK_STATUS(flashmla_dense_decode_prepare(&f.decode, &untouched), FLASHMLA_ERROR_DRIVER, "the fake refuses");
  CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_DRIVER, "the fake refuses");
  fake.answer = FLASHMLA_OK;
  fake.prepares = 0;
  fixture_set_device(&f, kDLCUDA, 8);
  CHECK_STATUS(flashmla_dense_decode_prepare(&f.decode, &untouched), FLASHMLA_ERROR_NO_DRIVER, "no device 8");
  CHECK(untouched == (void *)&f);
  no_run(&f);
  fixture_free(&f);
}

/* Nothing is looked at but which tensors there are; no device is asked for. */
static void empty(geometry g) {
  fixture f;
  fixture_init(&f, g);
  fixture_set_device(&f, kDLCUDA, 99);
  flashmla_prepared *prepared;
  CHECK_OK(flashmla_dense_decode_prepare(&f.decode, &prepared));
  for (int i = 0; i < TENSORS; ++i) f.tensor[i].byte_offset = 1;
  flashmla_dense_decode_params call = f.decode;
  call.workspace = NULL;
  fm_set_last_kernel("before");
  CHECK_OK(flashmla_dense_decode_run(prepared, &call));
  CHECK(strcmp(flashmla_last_kernel(), "") == 0);
  call.lse = NULL;
  CHECK_STATUS(flashmla_dense_decode_run(prepared, &call), FLASHMLA_ERROR_NULL_POINTER, "lse is NULL");
  no_run(&f);
  flashmla_prepared_free(prepared);
  fixture_free(&f);
}

int main(void) {
  for (int32_t device = kDLCPU; device <= kDLCUDA; ++device) {
    run_is_the_call((form){SMALL, device, NO_PLAN, .flags = 0});
    run_is_the_call((form){SMALL, device, 0, .flags = FLASHMLA_CAUSAL});
    run_is_the_call((form){SMALL, device, 5, .flags = FLASHMLA_LSE_BASE2 | FLASHMLA_EMPTY_LSE_MINUS, .no_lse = 1});
    run_is_the_call(
        (form){SMALL, device, NO_PLAN, .flags = FLASHMLA_BATCH_INVARIANT | FLASHMLA_DEFAULT_SCALE, .shard = 1});
    run_is_the_call((form){SMALL_VARLEN, device, NO_PLAN, .flags = FLASHMLA_CAUSAL});
    run_is_the_call((form){SMALL_VARLEN, device, 0, .flags = FLASHMLA_BATCH_INVARIANT, .shard = 1});
  }
  presence();
  addresses();
  scratch();
  structs();
  pointers();
  backend_refuses();
  empty((geometry){4, 0, 6, 2, 5, 64, 3, .dtype = FP16});
  empty((geometry){4, 2, 6, 2, 5, 64, 3, .dtype = BF16, .varlen = 1, .total_q = 0});
  return 0;
}
