/* Pools: the hash, sentences of their own rules, and what stays when a backend fails. */
#include "../fake_pool.h"
#include "../pools.h"
#include "fixture.h"
#include "pool/hash.h"

static pools p;

/* Key 00 01 .. 0f, messages of 0 and 16 bytes 00 01 ..: vectors_sip128 of the reference implementation (vectors.h of
 * github.com/veorq/SipHash), which OpenSSL's SIPHASH gives, too. */
static void hash(void) {
  static const unsigned char wanted[2][16] = {
      {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93},
      {0x6e, 0xe2, 0xa4, 0xca, 0x67, 0xb0, 0x54, 0xbb, 0xfd, 0x33, 0x15, 0xbf, 0x85, 0x23, 0x05, 0x77}};
  const uint64_t key[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
  for (int i = 0; i < 2; ++i) {
    fm_hashing hashing;
    fm_hash_begin(&hashing, key);
    fm_hash_words(&hashing, key, 2 * i);
    const fm_hash made = fm_hash_end(&hashing);
    CHECK(memcmp(&made, wanted[i], sizeof made) == 0);
  }
}

#define REFUSED(status, part, change)                                                    \
  do {                                                                                   \
    flashmla_pool *pool = NULL;                                                          \
    pools_init(&p);                                                                      \
    change;                                                                              \
    CHECK_STATUS(flashmla_pool_create(&p.params, &pool), FLASHMLA_ERROR_##status, part); \
    CHECK(pool == NULL);                                                                 \
  } while (0)
#define ACCEPTED(change)                                \
  do {                                                  \
    pools_init(&p);                                     \
    change;                                             \
    CHECK_OK(flashmla_pool_create(&p.params, &p.pool)); \
    pools_free(&p);                                     \
  } while (0)

static void on_cuda(void) {
  DLTensor *tensors[] = {&p.layer[0], &p.layer[1], &p.stacked, &p.block_table, &p.cache_seqlens, &p.slot_mapping};
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; ++i) tensors[i]->device.device_type = kDLCUDA;
  p.params.staging = &p.staged;
}

static void stack(void) {
  p.layers[0] = &p.stacked;
  p.params.num_layers = 0;
}

static void as_bytes(void) {
  for (int i = 0; i < LAYERS; ++i) p.layer[i].dtype = (DLDataType){kDLUInt, 8, 1};
}

static void rules(void) {
  static int64_t two[] = {2}, wide[] = {PAGE * 16, 16, 8, 1};
  static int64_t strides[5] = {BLOCKS * PAGE * ROW, PAGE * ROW, ROW, ROW, 1};
  CHECK_STATUS(flashmla_pool_create(NULL, &p.pool), FLASHMLA_ERROR_NULL_POINTER, "params is NULL");
  CHECK_STATUS(flashmla_pool_create(&p.params, NULL), FLASHMLA_ERROR_NULL_POINTER,
               "pool is NULL; the result goes there");
  REFUSED(FLAGS, "params.flags is 0x1; no flags are known", p.params.flags = 1);
  REFUSED(STRUCT_SIZE, "params.struct_size is 8", p.params.struct_size = 8);
  REFUSED(VALUE, "params.num_layers is -1; there may be 4096 at most", p.params.num_layers = -1);
  REFUSED(VALUE, "params.reserved is 1; it must be 0", p.params.reserved = 1);
  REFUSED(VALUE, "params.kv_format is 9", p.params.kv_format = 9);
  REFUSED(VALUE, "params.max_sequences is -1; it must be in [0, 16777215]", p.params.max_sequences = -1);
  REFUSED(NULL_POINTER, "kv_cache is NULL", p.params.kv_cache = NULL);
  REFUSED(NULL_POINTER, "kv_cache[1] is NULL", p.layers[1] = NULL);
  REFUSED(NULL_POINTER, "block_table is NULL", p.params.block_table = NULL);
  REFUSED(SHAPE, "kv_cache[1].ndim is 5; it must be 4", p.layers[1] = &p.stacked);
  REFUSED(SHAPE, "cache_seqlens.shape[0] is 2, block_table.shape[0] (max_seqs) is 3; they must be equal",
          p.cache_seqlens.shape = two);
  REFUSED(ZERO_EXTENT, "slot_mapping.shape[0] (max_slots) is 0", p.slots_shape[0] = 0);
  REFUSED(DTYPE, "slot_mapping.dtype is int32; it must be int64", p.slot_mapping.dtype.bits = 32);
  REFUSED(SHAPE, "kv_cache.shape[3] is 8; a token of format \"v32\" has 656 bytes",
          p.params.kv_format = FLASHMLA_KV_V32;
          as_bytes());
  REFUSED(STRIDE, "kv_cache[0].strides[1] is 16; it must be 8", p.layer[0].strides = wide);
  REFUSED(STRIDE, "kv_cache.strides[0] is -192; it must be > 0", stack(); strides[0] = -192;
          p.stacked.strides = strides);
  REFUSED(SHAPE, "host_pool.shape[1] is 255; it must be 256", p.host_shape[1] = BLOCK_BYTES - 1);
  REFUSED(DEVICE, "host_pool.device.device_type is 2; it must be in host memory, kDLCPU (1) or 3",
          p.host_pool.device.device_type = kDLCUDA);
  REFUSED(MIXED_DEVICES, "block_table is on cuda:0, kv_cache[0] is on cpu:0",
          p.block_table.device.device_type = kDLCUDA);
  REFUSED(NULL_POINTER, "staging is NULL; 1088 bytes of host memory are needed", on_cuda(); p.params.staging = NULL);
  REFUSED(WORKSPACE_TOO_SMALL, "staging.shape[0] is 1087; it must be at least 1088", on_cuda();
          p.staging_shape[0] = 1087);
  ACCEPTED(stack());
  ACCEPTED(on_cuda(); p.staging_shape[0] = 1088);
  ACCEPTED(p.params.host_pool = NULL);
  ACCEPTED(p.host_pool.device.device_type = 3);
}

static void sizes(void) {
  uint64_t bytes = 0;
  pools_init(&p);
  p.layer[0].data = p.layer[1].data = NULL; /* not looked at */
  CHECK_OK(flashmla_pool_block_bytes(&p.params, &bytes));
  CHECK(bytes == BLOCK_BYTES);
  CHECK_OK(flashmla_pool_staging_size(&p.params, &bytes));
  CHECK(bytes == 0);
  on_cuda();
  CHECK_OK(flashmla_pool_staging_size(&p.params, &bytes));
  CHECK(bytes == 1088);
  p.params.block_table = p.params.cache_seqlens = p.params.slot_mapping = NULL;
  CHECK_OK(flashmla_pool_block_bytes(&p.params, &bytes));
  CHECK_STATUS(flashmla_pool_block_bytes(&p.params, NULL), FLASHMLA_ERROR_NULL_POINTER, "bytes is NULL");
}

static void names(void) {
  flashmla_sequence child;
  int64_t total;
  int32_t negative = -1;
  pools_make(&p);
  const flashmla_sequence one = add(&p, 3);
  CHECK_STATUS(flashmla_pool_free(NULL, one), FLASHMLA_ERROR_NULL_POINTER, "pool is NULL");
  CHECK_STATUS(flashmla_pool_free(p.pool, 0), FLASHMLA_ERROR_SEQUENCE, "sequence 0 is unknown");
  CHECK_STATUS(flashmla_pool_free(p.pool, one + 1), FLASHMLA_ERROR_SEQUENCE, "is unknown: the pool has made none");
  CHECK_STATUS(flashmla_pool_free(p.pool, one + (UINT64_C(1) << 56)), FLASHMLA_ERROR_SEQUENCE, "is not of this pool");
  CHECK_STATUS(flashmla_pool_append(p.pool, &one, &negative, 1, NULL, &total), FLASHMLA_ERROR_VALUE, "gets -1 tokens");
  CHECK_STATUS(flashmla_pool_append(p.pool, &one, NULL, -1, NULL, &total), FLASHMLA_ERROR_VALUE, "num_sequences is -1");
  CHECK_STATUS(flashmla_pool_append(p.pool, NULL, NULL, 1, NULL, &total), FLASHMLA_ERROR_NULL_POINTER,
               "sequences is NULL");
  CHECK_STATUS(flashmla_pool_append(p.pool, &one, NULL, 1, NULL, NULL), FLASHMLA_ERROR_NULL_POINTER, "total is NULL");
  CHECK_STATUS(flashmla_pool_commit(p.pool, one, NULL, 3), FLASHMLA_ERROR_NULL_POINTER, "tokens is NULL; there are 3");
  CHECK_STATUS(flashmla_pool_commit(p.pool, one, NULL, -1), FLASHMLA_ERROR_VALUE, "num_tokens is -1; it must be >= 0");
  CHECK_STATUS(flashmla_pool_swap_in(p.pool, one, NULL), FLASHMLA_ERROR_SEQUENCE, "is not swapped out");
  CHECK_OK(flashmla_pool_swap_out(p.pool, one, NULL));
  CHECK_STATUS(flashmla_pool_fork(p.pool, one, &child), FLASHMLA_ERROR_SEQUENCE, "is swapped out; swap it in before");
  CHECK_OK(flashmla_pool_free(p.pool, one));
  CHECK_STATUS(flashmla_pool_free(p.pool, one), FLASHMLA_ERROR_SEQUENCE, "was freed before");
  CHECK_STATUS(flashmla_pool_hold(p.pool, BLOCKS), FLASHMLA_ERROR_BLOCK,
               "block 6 is none of this pool; it must be in [0, 6)");
  CHECK_STATUS(flashmla_pool_hold(p.pool, 0), FLASHMLA_ERROR_BLOCK, "block 0 is not in use");
  CHECK_STATUS(flashmla_pool_release(p.pool, 0), FLASHMLA_ERROR_BLOCK, "block 0 is not held");
  const flashmla_sequence of_this = add(&p, 1);
  CHECK(of_this != one);
  pools_free(&p);
  pools_init(&p);
  p.params.host_pool = NULL;
  CHECK_OK(flashmla_pool_create(&p.params, &p.pool));
  CHECK_STATUS(flashmla_pool_swap_out(p.pool, add(&p, 1), NULL), FLASHMLA_ERROR_VALUE, "the pool has no host_pool");
  CHECK_STATUS(flashmla_pool_free(p.pool, of_this), FLASHMLA_ERROR_SEQUENCE, "is not of this pool");
  pools_free(&p);
}

/* The call fails with the driver, and the books are as they were. */
#define UNDONE(call)                                                  \
  do {                                                                \
    uint64_t bytes, after_bytes;                                      \
    unsigned char *before = saved(&p, &bytes);                        \
    fake_pool.calls = 0, fake_pool.fails_at = 1;                      \
    CHECK_STATUS(call, FLASHMLA_ERROR_DRIVER, "was told to fail");    \
    fake_pool.fails_at = 0;                                           \
    unsigned char *after = saved(&p, &after_bytes);                   \
    CHECK(bytes == after_bytes && memcmp(before, after, bytes) == 0); \
    free(before);                                                     \
    free(after);                                                      \
    CHECK_OK(call);                                                   \
  } while (0)

static void failing_driver(void) {
  flashmla_sequence child;
  int64_t total;
  pools_make(&p);
  fake_pool = (fake_copies){.copied = 0};
  const flashmla_sequence parent = add(&p, 6);
  CHECK_OK(flashmla_pool_fork(p.pool, parent, &child));
  UNDONE(flashmla_pool_append(p.pool, &child, NULL, 1, NULL, &total)); /* copies the shared block */
  CHECK(fake_pool.copied == 1);
  UNDONE(flashmla_pool_swap_out(p.pool, child, NULL));
  UNDONE(flashmla_pool_swap_in(p.pool, child, NULL));
  CHECK(fake_pool.swapped == 4);
  pools_free(&p);
}

/* An upload that fails half way is gone on with by the next. */
static void failing_upload(void) {
  for (int at = 1; at <= 6; ++at) {
    pools_make(&p);
    add(&p, 5);
    add(&p, 1);
    fake_pool = (fake_copies){.fails_at = at};
    CHECK_STATUS(flashmla_pool_update(p.pool, NULL), FLASHMLA_ERROR_DRIVER, "was told to fail");
    fake_pool.fails_at = 0;
    CHECK_OK(flashmla_pool_update(p.pool, NULL));
    CHECK(fake_pool.uploaded == 4); /* lengths, slots, two rows */
    CHECK(fake_pool.ended >= 1);
    CHECK_OK(flashmla_pool_update(p.pool, NULL));
    CHECK(fake_pool.uploaded == 4);
    pools_free(&p);
  }
}

static void failing_create(void) {
  pools_init(&p);
  fake_pool = (fake_copies){.fails_at = 1};
  CHECK_STATUS(flashmla_pool_create(&p.params, &p.pool), FLASHMLA_ERROR_DRIVER, "was told to fail");
  fake_pool.fails_at = 0;
}

/* Callers of other versions of the structs. */
static void told(void) {
  struct {
    flashmla_pool_usage usage;
    int32_t more;
  } longer = {.usage = {.struct_size = sizeof longer}, .more = 7};
  pools_make(&p);
  const flashmla_sequence one = add(&p, 6);
  CHECK_OK(flashmla_pool_get_usage(p.pool, &longer.usage));
  CHECK(longer.more == 0 && longer.usage.used_blocks == 2 && longer.usage.struct_size == sizeof longer);
  longer.usage.struct_size = 4;
  CHECK_STATUS(flashmla_pool_get_usage(p.pool, &longer.usage), FLASHMLA_ERROR_STRUCT_SIZE, "usage.struct_size is 4");
  CHECK_STATUS(flashmla_pool_get_usage(p.pool, NULL), FLASHMLA_ERROR_NULL_POINTER, "usage is NULL");
  flashmla_pool_sequence about = FLASHMLA_POOL_SEQUENCE_INIT;
  CHECK_OK(flashmla_pool_get_sequence(p.pool, one, &about));
  CHECK(about.length == 6 && about.num_blocks == 2 && about.row == 0 && about.head_blocks == 0 && about.committed == 0);
  int32_t blocks[2];
  CHECK_STATUS(flashmla_pool_get_blocks(p.pool, one, blocks, 1), FLASHMLA_ERROR_VALUE, "capacity is 1; sequence");
  CHECK_OK(flashmla_pool_get_blocks(p.pool, one, blocks, 2));
  CHECK(blocks[0] == 0 && blocks[1] == 1);
  pools_free(&p);
  flashmla_pool_destroy(NULL);
}

/* Sanitizers end a program that asks for too much, unless told not to. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

/* A table of 2^49 bytes, of which the books are a copy. */
static void no_memory(void) {
  pools p;
  pools_init(&p);
  p.table_shape[0] = 1 << 16;
  p.table_shape[1] = INT32_MAX;
  p.cache_seqlens.shape = p.table_shape;
  CHECK_STATUS(flashmla_pool_create(&p.params, &p.pool), FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for the books");
  CHECK(p.pool == NULL);
}

int main(void) {
  no_memory();
  hash();
  rules();
  sizes();
  names();
  failing_driver();
  failing_upload();
  failing_create();
  told();
  return 0;
}
