/* append_kv: sentences of its own rules, and what a checked call hands to a backend. */
#include "../tokens.h"
#include "../fake_write.h"

static tokens t;

#define REFUSED(format, status, part, change)                                   \
  do {                                                                          \
    init(&t, format);                                                           \
    change;                                                                     \
    CHECK_STATUS(flashmla_append_kv(&t.params), FLASHMLA_ERROR_##status, part); \
    CHECK(fake_launches() == 0);                                                \
  } while (0)

static void rules(void) {
  CHECK_STATUS(flashmla_append_kv(NULL), FLASHMLA_ERROR_NULL_POINTER, "params is NULL");
  REFUSED(FLASHMLA_KV_V32, VALUE, "params.kv_format is 5; it must be a flashmla_kv_format, in [0, 5)",
          t.params.kv_format = 5);
  REFUSED(FLASHMLA_KV_BF16, VALUE, "params.flags has FLASHMLA_UNROUNDED_SCALES; format \"bf16\" has no scales",
          t.params.flags = FLASHMLA_UNROUNDED_SCALES);
  REFUSED(FLASHMLA_KV_V41, VALUE, "format \"v41\" has powers of two for scales",
          t.params.flags = FLASHMLA_UNROUNDED_SCALES);
  REFUSED(FLASHMLA_KV_V32, DTYPE, "kv_cache.dtype is bfloat16; it must be uint8, int8 or float8_e4m3fn",
          t.cache.dtype = BF16);
  REFUSED(FLASHMLA_KV_BF16, DTYPE, "latent.dtype is float16, kv_cache.dtype is bfloat16; they must be equal in format",
          t.latent.dtype = t.rope.dtype = FP16);
  REFUSED(FLASHMLA_KV_V32, DTYPE, "rope.dtype is float16, latent.dtype is bfloat16; they must be equal",
          t.rope.dtype = FP16);
  REFUSED(FLASHMLA_KV_V32, DTYPE, "slot_mapping.dtype is uint8; it must be int32 or int64", t.slots.dtype = UINT8);
  REFUSED(FLASHMLA_KV_MODEL1, SHAPE, "kv_cache.shape[3] is 576; a token of format \"model1\" has 584 bytes",
          t.cache_shape[3] = 576);
  REFUSED(FLASHMLA_KV_V32, UNSUPPORTED, "kv_cache.shape[2] (h_kv) is 2; supported in format \"v32\" is 1",
          t.cache_shape[2] = 2);
  REFUSED(FLASHMLA_KV_V32, SHAPE,
          "latent.shape[1] (d_latent) is 512 and without rope (d_rope) 0; a row of kv_cache in format \"v32\" has 576 "
          "columns",
          t.params.rope = NULL);
  REFUSED(FLASHMLA_KV_V32, UNSUPPORTED, "latent.shape[1] (d_latent) is 520; supported are multiples of 16",
          t.latent_shape[1] = 520;
          t.rope_shape[1] = 56);
  REFUSED(FLASHMLA_KV_BF16, UNSUPPORTED, "kv_cache.shape[3] (row) is 572; supported are multiples of 8",
          t.cache_shape[3] = 572);
  REFUSED(FLASHMLA_KV_V32, UNSUPPORTED, "latent.dtype is float32; supported on CUDA in format \"v32\" are",
          t.latent.dtype = t.rope.dtype = FP32;
          set_device(&t, kDLCUDA));
  REFUSED(FLASHMLA_KV_V32, STRIDE, "kv_cache.strides[1] is 672; it must be 656: a page of bytes is contiguous",
          t.cache_strides[1] = 672);
  REFUSED(FLASHMLA_KV_V32, STRIDE, "kv_cache.strides[3] is 2; it must be 1: a page of bytes is contiguous",
          t.cache_strides[3] = 2);
  REFUSED(FLASHMLA_KV_V32, ALIGNMENT, "kv_cache.strides[0] is 4008 elements (4008 bytes); it must be a multiple of 16",
          t.cache_strides[0] = 4008);
  REFUSED(FLASHMLA_KV_V32, ALIGNMENT, "slot_mapping starts at address", t.slots.byte_offset = 4);
  REFUSED(FLASHMLA_KV_V32, STRIDE, "slot_mapping.strides[0] is -1; it must be >= 0", t.slots_strides[0] = -1);
}

static void run(int32_t device) {
  set_device(&t, device);
  CHECK_OK(flashmla_append_kv(&t.params));
  CHECK(fake_launches() == 1);
  CHECK(strcmp(flashmla_last_kernel(), device == kDLCUDA ? "fake_cuda_write" : "fake_cpu_write") == 0);
}

static void what_a_backend_gets(void) {
  const fm_write *w = &fake_write;
  init(&t, FLASHMLA_KV_MODEL1);
  t.cache_strides[0] = PAGE * 584 + 64;
  t.latent_strides[0] = 0; /* one row for all */
  t.params.num_threads = 3;
  t.params.stream = &t;
  run(kDLCUDA);
  CHECK(w->pages.data == (char *)cache_memory && w->pages.block_step == PAGE * 584 + 64 && w->pages.row_step == 576);
  CHECK(w->pages.scales_at == PAGE * 576 && w->pages.columns == 512 && w->pages.format->scales_step == 8);
  CHECK(w->pages.num_blocks == BLOCKS && w->pages.page_size == PAGE && w->num_tokens == TOKENS);
  CHECK(w->latent_step == 0 && w->latent_bytes == 896 && w->rope_step == 128 && w->rope_bytes == 128);
  CHECK(w->wide_slots && w->slots_step == 8 && w->slots == (char *)slots_memory && !w->unrounded);
  CHECK(w->num_threads == 3 && w->stream == &t);
  init(&t, FLASHMLA_KV_BF16);
  t.cache_strides[1] = 584;
  t.cache_strides[0] = PAGE * 584;
  t.params.rope = NULL;
  t.latent_shape[1] = t.latent_strides[0] = 576;
  t.slots.dtype = INT32;
  run(kDLCPU);
  CHECK(w->pages.row_step == 1168 && w->pages.block_step == PAGE * 1168 && w->latent_bytes == 1152);
  CHECK(w->rope == NULL && w->rope_bytes == 0 && !w->wide_slots && w->slots_step == 4);
  init(&t, FLASHMLA_KV_V32);
  t.params.flags = FLASHMLA_UNROUNDED_SCALES;
  run(kDLCPU);
  CHECK(w->unrounded && w->pages.scales_at == 512);
}

static void a_prepared_run_has_other_addresses(void) {
  flashmla_prepared *prepared = NULL;
  init(&t, FLASHMLA_KV_V32);
  set_device(&t, kDLCUDA);
  CHECK_OK(flashmla_append_kv_prepare(&t.params, &prepared));
  CHECK(fake_launches() == 0);
  t.cache.byte_offset = 1024;
  t.latent.byte_offset = 64;
  t.rope.byte_offset = 32;
  t.slots.byte_offset = 8;
  t.params.stream = &t;
  CHECK_OK(flashmla_append_kv(&t.params));
  const fm_write plain = fake_write;
  memset(&fake_write, 0, sizeof fake_write);
  CHECK(fake_launches() == 1);
  memset(t.cache_shape, 0xff, sizeof t.cache_shape);
  memset(t.latent_strides, 0xff, sizeof t.latent_strides);
  t.params.kv_format = 77;
  CHECK_OK(flashmla_append_kv_run(prepared, &t.params));
  CHECK(fake_launches() == 1 && memcmp(&plain.pages, &fake_write.pages, sizeof plain.pages) == 0);
  CHECK(plain.latent == fake_write.latent && plain.rope == fake_write.rope && plain.slots == fake_write.slots);
  CHECK(plain.latent_step == fake_write.latent_step && plain.slots_step == fake_write.slots_step);
  CHECK(plain.stream == fake_write.stream);
  t.params.rope = NULL;
  CHECK_STATUS(flashmla_append_kv_run(prepared, &t.params), FLASHMLA_ERROR_NULL_POINTER,
               "rope is NULL; the prepared call was with it");
  flashmla_prepared_free(prepared);
}

static void empty(void) {
  init(&t, FLASHMLA_KV_V32);
  t.latent_shape[0] = t.rope_shape[0] = t.slots_shape[0] = 0;
  t.latent.data = t.rope.data = t.slots.data = NULL;
  CHECK_OK(flashmla_append_kv(&t.params));
  CHECK(fake_launches() == 0 && strcmp(flashmla_last_kernel(), "") == 0);
}

static void formats(void) {
  CHECK(flashmla_kv_token_bytes(FLASHMLA_KV_V32) == 656 && flashmla_kv_columns(FLASHMLA_KV_V32) == 576);
  CHECK(flashmla_kv_token_bytes(FLASHMLA_KV_BF16) == 0 && flashmla_kv_columns(FLASHMLA_KV_BF16) == 0);
  CHECK(flashmla_kv_token_bytes(-1) == 0 && flashmla_kv_columns(5) == 0);
}

int main(void) {
  rules();
  what_a_backend_gets();
  a_prepared_run_has_other_addresses();
  empty();
  formats();
  return 0;
}
