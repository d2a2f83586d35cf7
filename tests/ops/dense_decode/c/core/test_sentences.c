/* The sentence of each rule, by one example: one change to a valid call, the status and the sentence it must bring,
 * nothing run or written. Which tensor has which rule is the table's business (tests/argument_rules.py). */
#include <float.h>
#include <math.h>

#include "core/operation.h"
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
  REFUSED(SHAPE, "q.ndim is 3; it must be 4 (batch, s_q, h_q, d_qk), or 3 with cu_seqlens_q", f.tensor[Q].ndim = 3);
  REFUSED(SHAPE, "block_table.shape[0] is 3, q.shape[0] (batch) is 4; they must be equal", f.shape[BLOCK_TABLE][0] = 3);
  REFUSED(SHAPE, "h_q must be a multiple of h_kv", f.shape[KV_CACHE][2] = 4);
  REFUSED(ZERO_EXTENT, "q.shape[2] (h_q) is 0; it must be >= 1", f.shape[Q][2] = 0);
  REFUSED(SHAPE, "q.shape[0] (batch) is -1; it must be >= 0", f.shape[Q][0] = -1);
}

static void dtypes(void) {
  REFUSED(DTYPE, "q.dtype is float64", f.tensor[Q].dtype.code = kDLFloat; f.tensor[Q].dtype.bits = 64);
  REFUSED(DTYPE, "q.dtype is bfloat16x2", f.tensor[Q].dtype.lanes = 2);
  static const struct {
    uint8_t code, bits;
    const char *part;
  } others[] = {{99, 16, "q.dtype is code 99, 16 bits;"},
                {5, 64, "q.dtype is complex64;"},
                {6, 8, "q.dtype is bool;"},
                {6, 1, "q.dtype is code 6, 1 bits;"},
                {1, 8, "q.dtype is uint8;"},
                {10, 8, "q.dtype is float8_e4m3fn;"},
                {12, 8, "q.dtype is float8_e5m2;"},
                {17, 4, "q.dtype is float4_e2m1fn;"},
                {18, 8, "q.dtype is code 18, 8 bits;"}};
  for (size_t i = 0; i < sizeof others / sizeof others[0]; ++i)
    REFUSED(DTYPE, others[i].part, f.tensor[Q].dtype.code = others[i].code; f.tensor[Q].dtype.bits = others[i].bits);
  REFUSED(DTYPE, "kv_cache.dtype is float16, q.dtype is bfloat16; they must be equal", f.tensor[KV_CACHE].dtype = FP16);
  REFUSED(DTYPE, "they must be equal, or params.kv_format must name the format of the bytes",
          f.tensor[KV_CACHE].dtype = UINT8);
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
  REFUSED(STRIDE, "kv_cache.strides[0] is -576; it must be >= 0", f.strides[KV_CACHE][0] = -576);
  REFUSED(STRIDE, "out.strides[0] is 0; it must be > 0", f.strides[OUT][0] = 0);
  REFUSED(STRIDE, "block_table.strides[1] is 0; the innermost stride must be 1", f.strides[BLOCK_TABLE][1] = 0);
  ACCEPTED_ON_CUDA(f.strides[BLOCK_TABLE][0] = 0); /* a prefix that all requests share */
  CHECK(fake.decode.paged.block_table_stride == 0);
  ONLY_ON_CUDA(STRIDE, "kv_cache.strides[0] is 0; on CUDA it must be > 0", f.strides[KV_CACHE][0] = 0);
  ONLY_ON_CUDA(STRIDE, "q.strides[1] is 0; on CUDA it must be > 0", f.strides[Q][1] = 0);
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
  CHECK(fake.decode.attention.queries.stride[0] == 576 && fake.decode.paged.pages.block_step == 2 * 576);
  CHECK(fake.decode.attention.queries.stride[2] == 576 && fake.decode.attention.output.out_stride[2] == 512);
  fake_launches();
  fixture_free(&f);
}

static void alignment(void) {
  REFUSED(ALIGNMENT, "q.strides[2] is 577 elements (1154 bytes)", f.strides[Q][2] = 577);
  REFUSED(ALIGNMENT, "q starts at address 0x", f.tensor[Q].byte_offset = 8);
  REFUSED(OVERFLOW, "q.byte_offset is 18446744073709551600 from data 0x", f.tensor[Q].byte_offset = UINT64_MAX - 15);
  REFUSED(OVERFLOW, "; its 55296 bytes must end below address 2^64",
          f.tensor[Q].byte_offset = UINT64_MAX - 55279 - (uintptr_t)f.tensor[Q].data);
  ACCEPTED(f.tensor[Q].byte_offset = UINT64_MAX - 55295 - (uintptr_t)f.tensor[Q].data);
  ACCEPTED(f.tensor[BLOCK_TABLE].byte_offset = 4; f.tensor[LSE].byte_offset = 4);
  ACCEPTED(f.tensor[Q].byte_offset = 16);
}

static void misplaced_scratch(void) {
  fixture f;
  fixture_init(&f, SMALL);
  flashmla_dense_decode_params decode = f.decode;
  decode.workspace = (char *)decode.workspace + 8;
  CHECK_STATUS(flashmla_dense_decode(&decode), FLASHMLA_ERROR_ALIGNMENT, "params.workspace is");
  decode.workspace = (void *)(UINTPTR_MAX - 15);
  CHECK_STATUS(flashmla_dense_decode(&decode), FLASHMLA_ERROR_OVERFLOW, "params.workspace is 0xfffffffffffffff0; its ");
  flashmla_plan_decode_params plan = f.plan_params;
  plan.buffer = (char *)plan.buffer + 4;
  CHECK_STATUS(flashmla_plan_decode(&plan, &f.plan), FLASHMLA_ERROR_ALIGNMENT, "params.buffer is 0x");
  plan.flags |= FLASHMLA_PYTHON_NAMES;
  CHECK_STATUS(flashmla_plan_decode(&plan, &f.plan), FLASHMLA_ERROR_ALIGNMENT, "buffer is at address 0x");
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
  CHECK(fabs(fake.decode.attention.queries.softmax_scale - 1.0 / 24) < 1e-8);
  CHECK(fabsf(fake.decode.attention.queries.scale_log2 - 1.442695041f / 24.0f) < 1e-8f);
  ACCEPTED(f.decode.softmax_scale = FLT_MAX);
  CHECK(fake.decode.attention.queries.softmax_scale == FLT_MAX && fake.decode.attention.queries.scale_log2 == FLT_MAX);
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
  fake_launches();
  fixture_free(&f);
}

/* A library whose struct has grown serves callers of each size since the first: what they lack is 0. A size that cuts a
 * field, half a pointer perhaps, is nobody's. */
static void sizes_of(const fm_struct *of) {
  for (uint32_t size = 0; size <= of->size + 16; ++size) {
    unsigned char *given = malloc(size > 8 ? size : 8), known[FM_MAX_PARAMS_BYTES]; /* nothing behind may be read */
    CHECK(given != NULL);
    memset(given, 0, size > 8 ? size : 8);
    memset(given, 0x11, size < of->size ? size : of->size);
    memcpy(given, &size, sizeof size);
    memset(known, 0xff, sizeof known);
    int at_an_end = size >= of->size;
    for (int32_t i = 0; i < of->num_ends; ++i) at_an_end |= size == of->ends[i];
    if (at_an_end) {
      CHECK_OK(fm_read_params(given, of, known));
      CHECK(memcmp(given, known, size < of->size ? size : of->size) == 0);
      for (uint32_t i = size; i < of->size; ++i) CHECK(known[i] == 0);
    } else {
      CHECK_STATUS(fm_read_params(given, of, known), FLASHMLA_ERROR_STRUCT_SIZE,
                   size < of->ends[0] ? "at least" : "which is within a field; it must be sizeof the struct");
    }
    free(given);
  }
}

static void older_callers(void) {
  for (int32_t i = 0; fm_operation_at(i) != NULL; ++i) sizes_of(&fm_operation_at(i)->params);
  for (uint32_t size = DECODE_V1; size <= sizeof(flashmla_dense_decode_params); ++size)
    if (size % 4 != 0) REFUSED(STRUCT_SIZE, "within a field", f.decode.struct_size = size);
  REFUSED(STRUCT_SIZE, "params.struct_size is 100, which is within a field", f.decode.struct_size = 100);
  ACCEPTED(f.decode.struct_size = 104);
  PLAN_REFUSED(STRUCT_SIZE, "params.struct_size is 76, which is within a field", f.plan_params.struct_size = 76);
}

/* The struct of a row of the kernel table is written up to its size. */
static void kernel_info_sizes(void) {
  const uint32_t known = sizeof(flashmla_kernel_info);
  for (uint32_t size = 0; size <= known + 16; ++size) {
    unsigned char *info = malloc(size > 4 ? size : 4);
    CHECK(info != NULL);
    memset(info, 0xff, size);
    memcpy(info, &size, sizeof size);
    if (size < known) {
      CHECK_STATUS(flashmla_kernel_at(0, (flashmla_kernel_info *)(void *)info), FLASHMLA_ERROR_STRUCT_SIZE,
                   "info.struct_size is");
    } else {
      CHECK_OK(flashmla_kernel_at(0, (flashmla_kernel_info *)(void *)info));
      CHECK(((const flashmla_kernel_info *)(const void *)info)->struct_size == size);
      for (uint32_t i = known; i < size; ++i) CHECK(info[i] == 0);
    }
    free(info);
  }
}

/* What C and Python name differently is named as the caller does, who says so in the flags. */
static void python_names(void) {
#define IN_PYTHON(status, part, change) REFUSED(status, part, f.decode.flags |= FLASHMLA_PYTHON_NAMES; change)
#define PLAN_IN_PYTHON(status, part, change) \
  PLAN_REFUSED(status, part, f.plan_params.flags |= FLASHMLA_PYTHON_NAMES; change)
  ACCEPTED(f.decode.flags |= FLASHMLA_PYTHON_NAMES);
  IN_PYTHON(NULL_POINTER, "q is None; the tensor is required", f.decode.q = NULL);
  IN_PYTHON(VALUE, "softmax_scale is 0; it must be finite and > 0, or softmax_scale=None", f.decode.softmax_scale = 0);
  CHECK(strncmp(flashmla_last_error(), "softmax_scale", 13) == 0);
  IN_PYTHON(WORKSPACE_TOO_SMALL, "workspace has 7 bytes; it must have at least ", f.decode.workspace_size = 7);
  CHECK(strncmp(flashmla_last_error(), "workspace", 9) == 0);
  IN_PYTHON(PLAN_MISMATCH, "plan was never made; plan_decode must fill it first", memset(&f.plan, 0, sizeof f.plan);
            f.decode.plan = &f.plan);
  IN_PYTHON(PLAN_MISMATCH, "plan was made without causal, the call is with it", fixture_use_plan(&f, 0);
            fake_launches(); f.decode.flags |= FLASHMLA_CAUSAL);
  PLAN_IN_PYTHON(VALUE, "with batch_invariant it must be 0", f.plan_params.num_splits = 3;
                 f.plan_params.flags |= FLASHMLA_BATCH_INVARIANT);
  PLAN_IN_PYTHON(WORKSPACE_TOO_SMALL, "buffer has 0 bytes;", f.plan_params.buffer_size = 0);
  REFUSED(VALUE, "params.softmax_scale is 0;", f.decode.softmax_scale = 0); /* the call before was Python's */
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
  misplaced_scratch();
  scalars();
  struct_tails();
  older_callers();
  kernel_info_sizes();
  python_names();
  plan_looks_at_lengths_alone();
  return 0;
}
