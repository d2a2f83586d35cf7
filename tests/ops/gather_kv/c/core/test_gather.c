/* gather_kv and dequantize_kv: sentences of their own rules, and what a checked call hands to a backend. */
#include "check.h"
#include "../fake_read.h"

enum { BLOCKS = 3, PAGE = 4, BATCH = 2, MAX_BLOCKS = 5, ROWS = 7 };

static _Alignas(64) unsigned char memory[1 << 16];
static int64_t cache_shape[4], cache_strides[4], out_shape[2], out_strides[2], table_shape[2], table_strides[2];
static int64_t offsets_shape[1], offsets_strides[1], starts_shape[1], starts_strides[1];
static DLTensor cache, out, table, offsets, starts;
static flashmla_gather_kv_params gather;
static flashmla_dequantize_kv_params dequantize;

static DLTensor tensor(int place, DLDataType dtype, int rank, int64_t *shape, int64_t *strides) {
  int64_t elements = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    strides[axis] = elements;
    elements *= shape[axis];
  }
  return (DLTensor){
      .data = memory + place, .device = {kDLCPU, 0}, .ndim = rank, .dtype = dtype, .shape = shape, .strides = strides};
}

#define BF16 ((DLDataType){kDLBfloat, 16, 1})
#define FP16 ((DLDataType){kDLFloat, 16, 1})
#define UINT8 ((DLDataType){kDLUInt, 8, 1})
#define INT32 ((DLDataType){kDLInt, 32, 1})

static void init(int32_t kv_format) {
  const int32_t bytes = flashmla_kv_token_bytes(kv_format), columns = bytes > 0 ? flashmla_kv_columns(kv_format) : 576;
  memcpy(cache_shape, ((int64_t[]){BLOCKS, PAGE, 1, bytes > 0 ? bytes : columns}), sizeof cache_shape);
  memcpy(out_shape, ((int64_t[]){ROWS, columns}), sizeof out_shape);
  memcpy(table_shape, ((int64_t[]){BATCH, MAX_BLOCKS}), sizeof table_shape);
  offsets_shape[0] = BATCH + 1;
  starts_shape[0] = BATCH;
  cache = tensor(0, bytes > 0 ? UINT8 : BF16, 4, cache_shape, cache_strides);
  out = tensor(1 << 14, BF16, 2, out_shape, out_strides);
  table = tensor(1 << 15, INT32, 2, table_shape, table_strides);
  offsets = tensor((1 << 15) + 1024, INT32, 1, offsets_shape, offsets_strides);
  starts = tensor((1 << 15) + 2048, INT32, 1, starts_shape, starts_strides);
  gather = (flashmla_gather_kv_params)FLASHMLA_GATHER_KV_PARAMS_INIT;
  gather.kv_cache = &cache;
  gather.block_table = &table;
  gather.cu_seqlens = &offsets;
  gather.seq_starts = &starts;
  gather.out = &out;
  gather.kv_format = kv_format;
  dequantize = (flashmla_dequantize_kv_params)FLASHMLA_DEQUANTIZE_KV_PARAMS_INIT;
  dequantize.kv_cache = &cache;
  dequantize.out = &out;
  dequantize.kv_format = kv_format;
}

#define REFUSED(operation, params, format, status, part, change)       \
  do {                                                                 \
    init(format);                                                      \
    change;                                                            \
    CHECK_STATUS(operation(&(params)), FLASHMLA_ERROR_##status, part); \
    CHECK(fake_launches() == 0);                                       \
  } while (0)
#define GATHER(...) REFUSED(flashmla_gather_kv, gather, __VA_ARGS__)
#define DEQUANTIZE(...) REFUSED(flashmla_dequantize_kv, dequantize, __VA_ARGS__)

static void rules(void) {
  GATHER(FLASHMLA_KV_V32, VALUE, "params.kv_format is -1", gather.kv_format = -1);
  GATHER(FLASHMLA_KV_V32, FLAGS, "params.flags is 0x20", gather.flags = FLASHMLA_UNROUNDED_SCALES);
  GATHER(FLASHMLA_KV_V32, SHAPE,
         "cu_seqlens.shape[0] is 4, block_table.shape[0] (batch) is 2; cu_seqlens.shape[0] must be batch + 1",
         offsets_shape[0] = 4);
  GATHER(FLASHMLA_KV_V41, SHAPE, "out.shape[1] (d_qk) is 576; a row of kv_cache in format \"v41\" has 512 columns",
         out_shape[1] = 576);
  GATHER(FLASHMLA_KV_BF16, DTYPE, "out.dtype is float16, kv_cache.dtype is bfloat16; they must be equal in format",
         out.dtype = FP16);
  GATHER(FLASHMLA_KV_V32, STRIDE, "out.strides[0] is 0; it must be > 0", out_strides[0] = 0);
  DEQUANTIZE(FLASHMLA_KV_V32, SHAPE, "out.shape[0] (num_tokens) is 13; kv_cache has 3 * 4 slots", out_shape[0] = 13);
  DEQUANTIZE(FLASHMLA_KV_V32, UNSUPPORTED, "kv_cache.shape[2] (h_kv) is 2; supported in format \"v32\" is 1",
             cache_shape[2] = 2);
}

static void what_a_backend_gets(void) {
  const fm_read *r = &fake_read;
  init(FLASHMLA_KV_V41);
  cache_strides[0] = 0; /* one page for all */
  offsets_strides[0] = 2;
  starts_strides[0] = 0;
  out.dtype = FP16;
  CHECK_OK(flashmla_gather_kv(&gather));
  CHECK(fake_launches() == 1 && strcmp(flashmla_last_kernel(), "fake_cpu_read") == 0);
  CHECK(r->pages.block_step == 0 && r->pages.row_step == 512 && r->pages.scales_at == PAGE * 512);
  CHECK(r->block_table == table.data && r->block_table_stride == MAX_BLOCKS && r->max_blocks == MAX_BLOCKS);
  CHECK(r->cu_seqlens == offsets.data && r->cu_seqlens_stride == 2 && r->seq_starts_stride == 0 && r->batch == BATCH);
  CHECK(r->num_tokens == ROWS && r->out_step == 1024 && r->dtype == FM_FP16 && r->seq_starts == starts.data);
  gather.seq_starts = NULL;
  table_shape[1] = 0;
  table.data = NULL;
  CHECK_OK(flashmla_gather_kv(&gather));
  CHECK(fake_launches() == 1 && r->seq_starts == NULL && r->max_blocks == 0 && r->block_table != NULL);
  CHECK_OK(flashmla_dequantize_kv(&dequantize));
  CHECK(fake_launches() == 1 && r->block_table == NULL && r->num_tokens == ROWS);
}

static void a_prepared_run_has_other_addresses(void) {
  flashmla_prepared *prepared = NULL;
  init(FLASHMLA_KV_MODEL1);
  table_shape[1] = 0;
  table.data = NULL; /* without elements it may have any address */
  CHECK_OK(flashmla_gather_kv_prepare(&gather, &prepared));
  out.byte_offset = 16;
  offsets.byte_offset = 4;
  CHECK_OK(flashmla_gather_kv_run(prepared, &gather));
  CHECK(fake_launches() == 1 && fake_read.out == (char *)out.data + 16 && fake_read.out_step == 1024);
  CHECK((const char *)fake_read.cu_seqlens == (char *)offsets.data + 4 && fake_read.cu_seqlens_stride == 1);
  flashmla_prepared_free(prepared);
}

static void empty(void) {
  init(FLASHMLA_KV_V32);
  table_shape[0] = starts_shape[0] = 0;
  offsets_shape[0] = 1;
  CHECK_OK(flashmla_gather_kv(&gather));
  init(FLASHMLA_KV_V32);
  out_shape[0] = 0;
  CHECK_OK(flashmla_gather_kv(&gather));
  CHECK_OK(flashmla_dequantize_kv(&dequantize));
  CHECK(fake_launches() == 0 && strcmp(flashmla_last_kernel(), "") == 0);
}

int main(void) {
  rules();
  what_a_backend_gets();
  a_prepared_run_has_other_addresses();
  empty();
  return 0;
}
