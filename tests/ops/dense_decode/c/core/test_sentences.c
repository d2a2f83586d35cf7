/* The sentence of each rule, by one example: one change to a valid call, the status and the sentence it must bring,
 * nothing run or written. Which tensor has which rule is the table's business (tests/argument_rules.py). */
#include <float.h>
#include <math.h>

#include "core/params.h"
#include "refused.h"

static void pointers(void) {
  CHECK_STATUS(flashmla_dense_decode(NULL), FLASHMLA_ERROR_NULL_POINTER, "params is NULL");
  CHECK_STATUS(flashmla_plan_decode(NULL, NULL), FLASHMLA_ERROR_NULL_POINTER, "plan is NULL");
  REFUSED(NULL_POINTER, "q is NULL", f.decode.q = NULL);
  REFUSED(NULL_POINTER, "out.shape is NULL", f.tensor[OUT].shape = NULL);
  REFUSED(NULL_POINTER, "kv_cache.data is NULL", free(f.tensor[KV_CACHE].data); f.tensor[KV_CACHE].data = NULL);
  REFUSED(NULL_POINTER, "params.workspace is NULL", free(f.decode.workspace); f.decode.workspace = NULL);
  ACCEPTED(f.decode.lse = NULL);
  ACCEPTED(f.tensor[Q].strides = NULL; f.tensor[KV_CACHE].strides = NULL; f.tensor[OUT].strides = NULL;
           f.tensor[LSE].strides = NULL);
  PLAN_REFUSED(NULL_POINTER, "params.buffer is NULL", free(f.plan_params.buffer); f.plan_params.buffer = NULL);
}

static void ranks_and_extents(void) {
  REFUSED(SHAPE, "q.ndim is 3; it must be 4", f.tensor[Q].ndim = 3);
  REFUSED(SHAPE, "block_table.shape[0] is 3, q.shape[0] (batch) is 4; they must be equal", f.shape[BLOCK_TABLE][0] = 3);
  REFUSED(SHAPE, "h_q must be a multiple of h_kv", f.shape[KV_CACHE][2] = 4);
  REFUSED(ZERO_EXTENT, "q.shape[2] (h_q) is 0; it must be >= 1", f.shape[Q][2] = 0);
  REFUSED(ZERO_EXTENT, "q.shape[0] (batch) is -1; it must be >= 0", f.shape[Q][0] = -1);
}

static void dtypes(void) {
  REFUSED(DTYPE, "q.dtype is float64", f.tensor[Q].dtype.code = kDLFloat; f.tensor[Q].dtype.bits = 64);
  REFUSED(DTYPE, "q.dtype is bfloat16x2", f.tensor[Q].dtype.lanes = 2);
  REFUSED(DTYPE, "q.dtype is code 99, 16 bits", f.tensor[Q].dtype.code = 99);
  REFUSED(DTYPE, "kv_cache.dtype is float16, q.dtype is bfloat16; they must be equal", f.tensor[KV_CACHE].dtype = FP16);
  REFUSED(DTYPE, "out.dtype is float16, q.dtype is bfloat16; they must be equal, or the former float32",
          f.tensor[OUT].dtype = FP16);
  REFUSED(DTYPE, "block_table.dtype is int64; it must be int32", f.tensor[BLOCK_TABLE].dtype.bits = 64);
  REFUSED_ON_CUDA(UNSUPPORTED, "q.dtype is float32; supported on CUDA are bfloat16 and float16",
                  f.tensor[Q].dtype = f.tensor[KV_CACHE].dtype = f.tensor[OUT].dtype = FP32);
}

static void devices(void) {
  REFUSED(DEVICE, "q.device.device_type is 10", f.tensor[Q].device.device_type = 10);
  REFUSED(MIXED_DEVICES, "kv_cache is on cuda:0, q is on cpu:0", f.tensor[KV_CACHE].device.device_type = kDLCUDA);
  REFUSED_ON_CUDA(MIXED_DEVICES, "lse is on cuda:1, q is on cuda:0", f.tensor[LSE].device.device_id = 1);
  REFUSED_ON_CUDA(DEVICE, "q.device.device_id is -1", fixture_set_device(&f, kDLCUDA, -1));
  REFUSED_ON_CUDA(NO_DRIVER, "no device 8", fixture_set_device(&f, kDLCUDA, 8));
}

static void strides(void) {
  REFUSED(STRIDE, "q.strides[3] is 2; the innermost stride must be 1", f.strides[Q][3] = 2);
  REFUSED(STRIDE, "kv_cache.strides[0] is 0; it must be > 0", f.strides[KV_CACHE][0] = 0);
  REFUSED(STRIDE, "out.strides[0] is 4096; it must be > 6143, or the output overlaps itself", f.strides[OUT][0] = 4096);
  REFUSED(STRIDE, "lse.strides[2] is 1; it must be > 5", f.strides[LSE][1] = 1);
  ACCEPTED(f.strides[Q][0] = 576); /* inputs may overlap themselves */
  ACCEPTED(f.strides[KV_CACHE][0] = 576 * 2 * 64 * 3);
  ACCEPTED(f.strides[LSE][0] = 1; f.strides[LSE][1] = 100; f.strides[LSE][2] = 10); /* any order of axes */
  REFUSED(OVERFLOW, "kv_cache.strides[0] is 2305843009213693952", f.strides[KV_CACHE][0] = INT64_C(1) << 61);
  REFUSED(OVERFLOW, "q.strides[0] is", f.strides[Q][0] = INT64_MAX / 8 * 8);
  REFUSED(OVERFLOW, "kv_cache has more than 2^63 elements", f.tensor[KV_CACHE].strides = NULL;
          f.shape[KV_CACHE][0] = f.shape[KV_CACHE][1] = INT32_MAX);
  REFUSED(OVERFLOW, "kv_cache.shape[0] (num_blocks) is 2147483648; it must be < 2^31",
          f.shape[KV_CACHE][0] = INT64_C(1) << 31);
  ONLY_ON_CUDA(OVERFLOW, "(1374389534720 bytes); on CUDA it must be < 2^40 bytes",
               f.strides[KV_CACHE][0] = INT64_C(1) << 37); /* 5 blocks of 2 bytes */
}

static void ignored_strides(void) {
  fixture f;
  fixture_init(&f, (geometry){1, 1, 2, 1, 1, 1, 1, .dtype = BF16});
  for (int i = 0; i < TENSORS; ++i)
    for (int axis = 0; axis < 4; ++axis)
      if (f.shape[i][axis] == 1) f.strides[i][axis] = -7;
  CHECK_OK(flashmla_dense_decode(&f.decode));
  CHECK(fake.decode.paged.q_stride[0] == 576 && fake.decode.paged.cache_stride[0] == 576);
  CHECK(fake.decode.paged.q_stride[2] == 576 && fake.decode.attention.output.out_stride[2] == 512);
  fake_launches();
  fixture_free(&f);
}

static void alignment(void) {
  REFUSED(ALIGNMENT, "q.strides[2] is 577 elements (1154 bytes)", f.strides[Q][2] = 577);
  REFUSED(ALIGNMENT, "q starts at address 0x", f.tensor[Q].byte_offset = 8);
  ACCEPTED(f.tensor[BLOCK_TABLE].byte_offset = 4; f.tensor[LSE].byte_offset = 4);
  ACCEPTED(f.tensor[Q].byte_offset = 16);
}

static void misaligned_scratch(void) {
  fixture f;
  fixture_init(&f, SMALL);
  flashmla_dense_decode_params decode = f.decode;
  decode.workspace = (char *)decode.workspace + 8;
  CHECK_STATUS(flashmla_dense_decode(&decode), FLASHMLA_ERROR_ALIGNMENT, "params.workspace is");
  flashmla_plan_decode_params plan = f.plan_params;
  plan.buffer = (char *)plan.buffer + 4;
  CHECK_STATUS(flashmla_plan_decode(&plan, &f.plan), FLASHMLA_ERROR_ALIGNMENT, "params.buffer is");
  no_run(&f);
  fixture_free(&f);
}

static void scalars(void) {
  REFUSED(FLAGS, "params.flags is 0x20", f.decode.flags = 32);
  REFUSED(VALUE, "params.softmax_scale is 0", f.decode.softmax_scale = 0.0f);
  REFUSED(VALUE, "params.softmax_scale is -1", f.decode.softmax_scale = -1.0f);
  REFUSED(VALUE, "params.softmax_scale is inf", f.decode.softmax_scale = INFINITY);
  REFUSED(VALUE, "params.softmax_scale is", f.decode.softmax_scale = NAN);
  REFUSED(VALUE, "params.num_threads is -1; it must be >= 0", f.decode.num_threads = -1);
  REFUSED(WORKSPACE_TOO_SMALL, "params.workspace_size is", --f.decode.workspace_size);
  ACCEPTED(f.decode.softmax_scale = 1e-30f);
  ACCEPTED(f.decode.softmax_scale = 0.0f; f.decode.flags = FLASHMLA_DEFAULT_SCALE);
  CHECK(fabsf(fake.decode.softmax_scale - 1.0f / 24.0f) < 1e-8f);
  CHECK(fabsf(fake.decode.scale_log2 - 1.442695041f / 24.0f) < 1e-8f);
  ACCEPTED(f.decode.softmax_scale = FLT_MAX);
  CHECK(fake.decode.softmax_scale == FLT_MAX && fake.decode.scale_log2 == FLT_MAX);
  PLAN_REFUSED(FLAGS, "params.flags is 0x80000000", f.plan_params.flags = 1u << 31);
  PLAN_REFUSED(VALUE, "params.num_splits is -1; it must be in [0, 1024]", f.plan_params.num_splits = -1);
  PLAN_REFUSED(VALUE, "params.num_splits is 1025", f.plan_params.num_splits = 1025);
  PLAN_REFUSED(VALUE, "params.reserved is 1 and reserved2 0; they must be 0", f.plan_params.reserved = 1);
  PLAN_REFUSED(VALUE, "reserved2 9; they must be 0", f.plan_params.reserved2 = 9);
  PLAN_REFUSED(WORKSPACE_TOO_SMALL, "params.buffer_size is", --f.plan_params.buffer_size);
}

/* Version 1 of the binary interface: callers compiled against it have structs of these sizes for good. */
enum { DECODE_V1 = 96, PLAN_V1 = 72 };

static void struct_tails(void) {
  ACCEPTED(f.decode.struct_size = DECODE_V1);
  /* What lies behind an older struct is not looked at. */
  ACCEPTED(f.decode.struct_size = DECODE_V1; f.decode.max_seqlen_q = -1; f.decode.cp_world = 7);
  REFUSED(STRUCT_SIZE, "params.struct_size is 0", f.decode.struct_size = 0);
  REFUSED(STRUCT_SIZE, "params.struct_size is 95; it must be sizeof the struct, at least 96 and at most 4096",
          f.decode.struct_size = DECODE_V1 - 1);
  REFUSED(STRUCT_SIZE, "params.struct_size is 4097", f.decode.struct_size = 4097);
  REFUSED(STRUCT_SIZE, "params.struct_size is 4294967295", f.decode.struct_size = UINT32_MAX);
  PLAN_REFUSED(STRUCT_SIZE, "params.struct_size is 71", f.plan_params.struct_size = PLAN_V1 - 1);

  fixture f;
  fixture_init(&f, SMALL);
  struct {
    flashmla_dense_decode_params known;
    unsigned char later[24];
  } bigger = {f.decode, {0}};
  bigger.known.struct_size = sizeof bigger;
  CHECK_OK(flashmla_dense_decode(&bigger.known));
  fake_launches();
  bigger.later[23] = 1;
  CHECK_STATUS(flashmla_dense_decode(&bigger.known), FLASHMLA_ERROR_STRUCT_SIZE, "is not 0");
  no_run(&f);
  f.plan_params.struct_size = PLAN_V1;
  f.plan_params.reserved2 = 5;
  CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan));
  fixture_free(&f);
}

/* A library whose struct has grown serves callers of each size since the first: what they lack is 0. */
static void older_callers(void) {
  struct {
    uint32_t struct_size, first;
    uint64_t second, third;
  } known, *given;
  for (uint32_t size = 8; size <= sizeof known; size += 8) {
    given = malloc(size); /* nothing behind it may be read */
    CHECK(given != NULL);
    memset(given, 0x11, size);
    given->struct_size = size;
    memset(&known, 0xff, sizeof known);
    CHECK_OK(fm_read_params(given, 8, &known, sizeof known));
    CHECK(memcmp(given, &known, size) == 0);
    CHECK(known.second == (size >= 16 ? UINT64_C(0x1111111111111111) : 0));
    CHECK(known.third == (size >= 24 ? UINT64_C(0x1111111111111111) : 0));
    CHECK_STATUS(fm_read_params(given, size + 1, &known, sizeof known), FLASHMLA_ERROR_STRUCT_SIZE, "at least");
    free(given);
  }
}

static void plan_looks_at_lengths_alone(void) {
  fixture f;
  fixture_init(&f, SMALL);
  const int memories[] = {Q, KV_CACHE, BLOCK_TABLE};
  for (int i = 0; i < 3; ++i) {
    free(f.tensor[memories[i]].data);
    f.tensor[memories[i]].data = NULL;
    f.strides[memories[i]][0] = -1;
  }
  CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan));
  fixture_free(&f);
}

int main(void) {
  pointers();
  ranks_and_extents();
  dtypes();
  devices();
  strides();
  ignored_strides();
  alignment();
  misaligned_scratch();
  scalars();
  struct_tails();
  older_callers();
  plan_looks_at_lengths_alone();
  return 0;
}
