/* sparse_decode: sentences of its own rules, and what a checked call hands to a backend. */
#include "../selections.h"
#include "../fake_sparse.h"

static selections s;

#define REFUSED(status, part, ...)                                                  \
  do {                                                                              \
    init(&s, FLASHMLA_KV_V32, FLASHMLA_KV_BF16);                                    \
    __VA_ARGS__;                                                                    \
    CHECK_STATUS(flashmla_sparse_decode(&s.params), FLASHMLA_ERROR_##status, part); \
    CHECK(fake_launches() == 0);                                                    \
  } while (0)
/* Of calls whose selections are of one format, on CUDA. */
#define REFUSED_ON_CUDA(format, status, part, ...)                                  \
  do {                                                                              \
    init(&s, format, format);                                                       \
    __VA_ARGS__;                                                                    \
    CHECK_OK(flashmla_sparse_decode(&s.params));                                    \
    set_device(&s, kDLCUDA);                                                        \
    fake_launches();                                                                \
    CHECK_STATUS(flashmla_sparse_decode(&s.params), FLASHMLA_ERROR_##status, part); \
    CHECK(fake_launches() == 0);                                                    \
  } while (0)

static void rules(void) {
  CHECK_STATUS(flashmla_sparse_decode(NULL), FLASHMLA_ERROR_NULL_POINTER, "params is NULL");
  REFUSED(VALUE, "params.kv_format is 6; it must be a flashmla_kv_format", s.params.kv_format = 6);
  REFUSED(VALUE, "params.extra_kv_format is -1; it must be a flashmla_kv_format", s.params.extra_kv_format = -1);
  REFUSED(VALUE, "params.reserved is 1; it must be 0", s.params.reserved = 1);
  REFUSED(FLAGS, "params.flags is 0x1;", s.params.flags = FLASHMLA_CAUSAL);
  REFUSED(VALUE, "params.extra_kv_format is \"v32\"; without extra_kv_cache it must be 0",
          s.params.extra_kv_cache = NULL, s.params.extra_kv_format = 1);
  REFUSED(NULL_POINTER, "extra_indices is NULL; with extra_kv_cache it is required", s.params.extra_indices = NULL);
  REFUSED(NULL_POINTER, "extra_kv_cache is NULL; with extra_indices it is required", s.params.extra_kv_cache = NULL);
  REFUSED(VALUE, "extra_topk_length is given; without extra_kv_cache it must be left out",
          s.params.extra_kv_cache = s.params.extra_indices = NULL);
  REFUSED(VALUE, "params.max_seqlen_q is 3; without cu_seqlens_q it must be 0", s.params.max_seqlen_q = 3);
  REFUSED(VALUE, "params.softmax_scale is 0", s.params.softmax_scale = 0);
  REFUSED(SHAPE, "q.shape[3] (d_qk) is 512; a row of kv_cache in format \"v32\" has 576 columns",
          SET(&s, Q, BF16, BATCH, S_Q, H_Q, 512));
  REFUSED(SHAPE, "q.shape[3] (d_qk) is 576; a row of extra_kv_cache in format \"bf16\" has 512 columns",
          SET(&s, EXTRA_KV, BF16, 2, 2, 1, 512));
  REFUSED(SHAPE, "kv_cache.shape[3] is 657; a token of format \"v32\" has 656 bytes", SET(&s, KV, UINT8, 1, 4, 1, 657));
  REFUSED(UNSUPPORTED, "kv_cache.shape[2] (h_kv) is 2; supported in format \"v32\" is 1",
          s.params.extra_kv_cache = NULL, s.params.extra_indices = s.params.extra_topk_length = NULL,
          SET(&s, KV, UINT8, 1, 4, 2, 656));
  REFUSED(UNSUPPORTED, "q.shape[2] (h_q) is 129; supported are at most 128", SET(&s, Q, BF16, 1, 1, 129, 64),
          SET(&s, INDICES, INT32, 1, 1, TOPK), SET(&s, EXTRA_INDICES, INT64, 1, 1, EXTRA_TOPK),
          SET(&s, LENGTHS, INT32, 1), SET(&s, EXTRA_LENGTHS, INT32, 1), SET(&s, SINK, FP32, 129),
          SET(&s, OUT, BF16, 1, 1, 129, 8), SET(&s, LSE, FP32, 1, 129, 1));
  REFUSED(DTYPE, "q.dtype is float32; with kv_cache in format \"v32\" it must be bfloat16",
          s.tensor[Q].dtype = s.tensor[OUT].dtype = FP32);
  REFUSED(DTYPE, "extra_kv_cache.dtype is float16, q.dtype is bfloat16; they must be equal in format \"bf16\"",
          s.tensor[EXTRA_KV].dtype = FP16);
  REFUSED(DTYPE, "kv_cache.dtype is bfloat16; it must be uint8, int8 or float8_e4m3fn", s.tensor[KV].dtype = BF16);
  REFUSED(DTYPE, "bfloat16, float16 or float32, or params.kv_format must name the format of the bytes",
          s.params.kv_format = FLASHMLA_KV_BF16);
  REFUSED(DTYPE, "float16 or float32, or params.extra_kv_format must name the format of the bytes",
          s.tensor[EXTRA_KV].dtype = UINT8);
  REFUSED(DTYPE, "indices.dtype is uint8; it must be int32 or int64", s.tensor[INDICES].dtype = UINT8);
  REFUSED(SHAPE, "indices.shape[1] is 3, q.shape[1] (s_q) is 2", SET(&s, INDICES, INT32, BATCH, 3, TOPK));
  REFUSED(STRIDE, "indices.strides[2] is 2; the innermost stride must be 1", s.strides[INDICES][2] = 2);
  REFUSED(SHAPE, "attn_sink.shape[0] is 6", SET(&s, SINK, FP32, 6));
  REFUSED(SHAPE, "cu_seqlens_q.shape[0] is 4, topk_length.shape[0] (batch) is 2", make_varlen(&s),
          SET(&s, LENGTHS, INT32, 2), SET(&s, EXTRA_LENGTHS, INT32, 2));
  REFUSED(SHAPE, "cu_seqlens_q.shape[0] is 4, extra_topk_length.shape[0] (batch) is 2", make_varlen(&s),
          s.params.topk_length = NULL, SET(&s, EXTRA_LENGTHS, INT32, 2));
  REFUSED(OVERFLOW, "indices has topk 2147483584 and extra_indices extra_topk 7; together",
          s.shape[INDICES][2] = INT32_MAX - 63);
  REFUSED(WORKSPACE_TOO_SMALL, "params.workspace_size is 16", s.params.workspace_size = 16);
}

static void rules_of_gpus(void) {
  REFUSED_ON_CUDA(FLASHMLA_KV_BF16, UNSUPPORTED, "q.dtype is float16; supported on CUDA is bfloat16",
                  s.tensor[Q].dtype = s.tensor[KV].dtype = s.tensor[EXTRA_KV].dtype = s.tensor[OUT].dtype = FP16);
  REFUSED_ON_CUDA(FLASHMLA_KV_BF16, UNSUPPORTED, "q.shape[3] (d_qk) is 320; supported on CUDA are 576 and 512",
                  SET(&s, Q, BF16, BATCH, S_Q, H_Q, 320), SET(&s, KV, BF16, 2, 3, 1, 320),
                  SET(&s, EXTRA_KV, BF16, 2, 2, 1, 320), SET(&s, OUT, BF16, BATCH, S_Q, H_Q, 256));
  REFUSED_ON_CUDA(FLASHMLA_KV_BF16, OVERFLOW, "kv_cache.strides[1] is 1073741824; on CUDA it must be < 2^31 bytes",
                  s.strides[KV][1] = 1 << 30, s.strides[KV][0] = INT64_C(1) << 34);
  REFUSED_ON_CUDA(FLASHMLA_KV_V32, STRIDE, "q.strides[0] is 0; on CUDA it must be > 0", s.strides[Q][0] = 0);
  REFUSED_ON_CUDA(FLASHMLA_KV_V32, OVERFLOW,
                  "q.strides[0] is 549755813888 over 3 elements (3298534883328 bytes); on CUDA",
                  s.strides[Q][0] = INT64_C(1) << 39);
}

static void run(int32_t device) {
  set_device(&s, device);
  CHECK_OK(flashmla_sparse_decode(&s.params));
  CHECK(fake_launches() == 1);
  CHECK(strcmp(flashmla_last_kernel(), device == kDLCUDA ? "fake_cuda_sparse" : "fake_cpu_sparse") == 0);
}

/* q alone is read through a tensor map, whose strides are limited. */
static void far_pages_and_rows(void) {
  const int64_t far = INT64_C(1) << 40;
  init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);
  s.strides[KV][0] = s.strides[EXTRA_KV][0] = s.strides[OUT][0] = far;
  run(kDLCUDA);
  CHECK(fake_sparse.selections[FM_MAIN].pages.block_step == 2 * far);
  CHECK(fake_sparse.selections[FM_EXTRA].pages.block_step == 2 * far);
  CHECK(fake_sparse.attention.output.out_stride[0] == far);
}

static void what_a_backend_gets(void) {
  const fm_attention *a = &fake_sparse.attention;
  const fm_selection *main = &fake_sparse.selections[FM_MAIN], *extra = &fake_sparse.selections[FM_EXTRA];
  init(&s, FLASHMLA_KV_MODEL1, FLASHMLA_KV_MODEL1);
  s.strides[KV][0] = PAGE * 584 + 64;
  s.strides[INDICES][1] = TOPK + 3;
  s.strides[INDICES][0] = 1000;
  s.params.flags = FLASHMLA_LSE_BASE2;
  s.params.num_threads = 3;
  s.params.stream = &s;
  run(kDLCUDA);
  CHECK(a->work.batch == BATCH && a->work.s_q == S_Q && a->work.h_q == H_Q && a->work.h_kv == 1 && a->work.own_items);
  CHECK(a->work.capacity == TOPK && a->work.extra_capacity == EXTRA_TOPK && !a->work.varlen);
  CHECK((const void *)a->work.lengths == memory[LENGTHS] &&
        (const void *)a->work.extra_lengths == memory[EXTRA_LENGTHS]);
  CHECK(a->queries.data == memory[Q] && a->queries.d_qk == 512 && a->d_v == 512 && a->queries.softmax_scale == 0.05f);
  CHECK(a->queries.stride[0] == S_Q * H_Q * 512 && a->queries.stride[2] == 512 && a->queries.dtype == FM_BF16);
  CHECK(a->output.out == memory[OUT] && (void *)a->output.lse == memory[LSE] && a->output.lse_base2);
  CHECK((const void *)a->output.sink == memory[SINK] && a->mask.cp_world == 0 && !a->mask.causal);
  CHECK(a->tiling.block_tokens == 1 && a->tiling.blocks == S_Q);
  CHECK(main->pages.data == (char *)memory[KV] && main->pages.block_step == s.strides[KV][0]);
  CHECK(main->pages.row_step == 576 && main->pages.scales_at == PAGE * 576 && main->pages.columns == 512);
  CHECK(main->pages.num_blocks == BLOCKS && main->pages.page_size == PAGE && main->kv_format == FLASHMLA_KV_MODEL1);
  CHECK(main->topk == TOPK && !main->wide && main->indices == memory[INDICES]);
  CHECK(main->stride[0] == 1000 && main->stride[1] == TOPK + 3);
  CHECK(extra->pages.data == (char *)memory[EXTRA_KV] && extra->pages.page_size == EXTRA_PAGE && extra->wide);
  CHECK(extra->topk == EXTRA_TOPK && extra->indices == memory[EXTRA_INDICES] && extra->stride[0] == S_Q * EXTRA_TOPK);
  CHECK(fake_sparse.num_threads == 3 && fake_sparse.stream == &s);
  CHECK((const void *)a->schedule.cuts == scratch);
  init(&s, FLASHMLA_KV_V32_NOPE, FLASHMLA_KV_BF16); /* on the CPU each in a format of its own */
  run(kDLCPU);
  CHECK(strcmp(main->pages.format->name, "v32_nope") == 0 && strcmp(extra->pages.format->name, "bf16") == 0);
}

static void variable_length_queries(void) {
  const fm_attention *a = &fake_sparse.attention;
  init(&s, FLASHMLA_KV_V32, FLASHMLA_KV_V32);
  make_varlen(&s);
  run(kDLCUDA);
  CHECK(a->work.batch == BATCH && a->work.s_q == 4 && a->work.varlen && a->work.total_q == 5);
  CHECK((const void *)a->work.cu_seqlens_q == memory[OFFSETS] && a->tiling.blocks == 4);
  const fm_selection *main = &fake_sparse.selections[FM_MAIN];
  CHECK(main->stride[0] == 0 && main->stride[1] == TOPK && a->queries.stride[0] == 0);
  s.params.topk_length = s.params.extra_topk_length = NULL;
  run(kDLCPU);
  CHECK(a->work.batch == BATCH && a->work.lengths == NULL && a->work.extra_lengths == NULL);
}

static void what_may_be_left_out(void) {
  const fm_sparse_decode *got = &fake_sparse;
  init_alone(&s, FLASHMLA_KV_V41);
  s.params.topk_length = s.params.attn_sink = s.params.lse = NULL;
  run(kDLCUDA);
  CHECK(got->attention.work.lengths == NULL && got->attention.work.extra_capacity == 0);
  CHECK(got->attention.output.sink == NULL && got->attention.output.lse == NULL);
  CHECK(got->selections[FM_EXTRA].pages.format == NULL && got->selections[FM_EXTRA].topk == 0);
  init(&s, FLASHMLA_KV_V41, FLASHMLA_KV_V41); /* nothing is selected */
  s.shape[INDICES][2] = s.shape[EXTRA_INDICES][2] = 0;
  s.tensor[INDICES].data = s.tensor[EXTRA_INDICES].data = NULL;
  run(kDLCPU);
  CHECK(got->attention.work.capacity == 0 && got->attention.work.extra_capacity == 0);
}

/* Each query token has tiles of its own, and needs no scratch where it has few items. */
static void scratch_follows_from_shapes(void) {
  uint64_t bytes, fewer;
  init(&s, FLASHMLA_KV_V32, FLASHMLA_KV_V32);
  CHECK_OK(flashmla_sparse_decode_workspace_size(&s.params, &bytes));
  s.params.extra_kv_cache = s.params.extra_indices = s.params.extra_topk_length = NULL;
  s.params.extra_kv_format = 0;
  CHECK_OK(flashmla_sparse_decode_workspace_size(&s.params, &fewer));
  CHECK(bytes > 0 && fewer < bytes);
  CHECK_STATUS(flashmla_sparse_decode_workspace_size(&s.params, NULL), FLASHMLA_ERROR_NULL_POINTER, "bytes is NULL");
}

static void a_prepared_run_has_other_addresses(void) {
  flashmla_prepared *prepared = NULL;
  init(&s, FLASHMLA_KV_V32, FLASHMLA_KV_V32);
  set_device(&s, kDLCUDA);
  CHECK_OK(flashmla_sparse_decode_prepare(&s.params, &prepared));
  CHECK(fake_launches() == 0);
  for (int i = 0; i < TENSORS; ++i) s.tensor[i].byte_offset = 64 * (uint64_t)(i + 1);
  s.params.workspace = scratch + 4096;
  s.params.workspace_size -= 4096;
  s.params.stream = &s;
  CHECK_OK(flashmla_sparse_decode(&s.params));
  fm_sparse_decode plain = fake_sparse;
  memset(&fake_sparse, 0, sizeof fake_sparse);
  CHECK(fake_launches() == 1);
  memset(s.shape, 0xff, sizeof s.shape);
  memset(s.strides, 0xff, sizeof s.strides);
  s.params.kv_format = s.params.extra_kv_format = 77;
  s.params.softmax_scale = -1;
  CHECK_OK(flashmla_sparse_decode_run(prepared, &s.params));
  fm_work *work = &plain.attention.work;
  const fm_work *again = &fake_sparse.attention.work;
  CHECK(work->lengths == again->lengths && work->extra_lengths == again->extra_lengths);
  memcpy(work, again, sizeof *work); /* its padding is of no one value */
  CHECK(fake_launches() == 1 && memcmp(&plain, &fake_sparse, sizeof plain) == 0);
  s.params.attn_sink = NULL;
  CHECK_STATUS(flashmla_sparse_decode_run(prepared, &s.params), FLASHMLA_ERROR_NULL_POINTER,
               "attn_sink is NULL; the prepared call was with it");
  flashmla_prepared_free(prepared);
}

static void empty(void) {
  init(&s, FLASHMLA_KV_V32, FLASHMLA_KV_V32);
  const int of_requests[] = {Q, INDICES, LENGTHS, EXTRA_INDICES, EXTRA_LENGTHS, OUT, LSE};
  for (size_t i = 0; i < sizeof of_requests / sizeof *of_requests; ++i) {
    s.shape[of_requests[i]][0] = 0;
    s.tensor[of_requests[i]].data = NULL;
  }
  s.params.workspace = NULL;
  s.params.workspace_size = 0;
  CHECK_OK(flashmla_sparse_decode(&s.params));
  CHECK(fake_launches() == 0 && strcmp(flashmla_last_kernel(), "") == 0);
}

int main(void) {
  rules();
  rules_of_gpus();
  far_pages_and_rows();
  what_a_backend_gets();
  variable_length_queries();
  what_may_be_left_out();
  scratch_follows_from_shapes();
  a_prepared_run_has_other_addresses();
  empty();
  return 0;
}
