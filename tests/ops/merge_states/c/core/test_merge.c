/* merge_states: every rule on its arguments, and what a checked call hands to a backend. */
#include <math.h>

#include "../parts.h"
#include "check.h"
#include "../fake_merge.h"

static parts p; /* about 200 KB */

#define REFUSED(status, part, change)                                              \
  do {                                                                             \
    init(&p, 3, 0, 0);                                                             \
    change;                                                                        \
    CHECK_STATUS(flashmla_merge_states(&p.params), FLASHMLA_ERROR_##status, part); \
    CHECK(fake.cpu_launches == 0 && fake.cuda_launches == 0);                      \
  } while (0)

static void run(int32_t device) {
  set_device(&p, device);
  CHECK_OK(flashmla_merge_states(&p.params));
  CHECK(fake.cpu_launches + fake.cuda_launches == 1 && (device == kDLCUDA) == (fake.cuda_launches == 1));
  CHECK(strcmp(flashmla_last_kernel(), device == kDLCUDA ? "fake_cuda_merge" : "fake_cpu_merge") == 0);
  fake.cpu_launches = fake.cuda_launches = 0;
}

static void rules(void) {
  CHECK_STATUS(flashmla_merge_states(NULL), FLASHMLA_ERROR_NULL_POINTER, "params is NULL");
  REFUSED(STRUCT_SIZE, "params.struct_size is 8", p.params.struct_size = 8);
  REFUSED(FLAGS, "params.flags is 0x1; only bits of 0x10c are known", p.params.flags = FLASHMLA_CAUSAL);
  REFUSED(FLAGS, "params.flags is 0x10", p.params.flags = FLASHMLA_BATCH_INVARIANT);
  REFUSED(VALUE, "params.num_states is -1", p.params.num_states = -1);
  REFUSED(VALUE, "params.num_threads is -2", p.params.num_threads = -2);
  REFUSED(NULL_POINTER, "outs is NULL", p.params.outs = NULL);
  REFUSED(NULL_POINTER, "lses is NULL", p.params.lses = NULL);
  REFUSED(NULL_POINTER, "out is NULL", p.params.out = NULL);
  REFUSED(NULL_POINTER, "outs[1] is NULL", p.outs[1] = NULL);
  REFUSED(NULL_POINTER, "lses[2] is NULL", p.lses[2] = NULL);
  REFUSED(NULL_POINTER, "outs[2].data is NULL", p.out[2].data = NULL);
  REFUSED(NULL_POINTER, "out.shape is NULL", p.result_out.shape = NULL);
  REFUSED(SHAPE,
          "out.ndim is 5; it must be 4 (batch, s_q, h_q, d_v), or 3 (total_q, h_q, d_v) with variable-length queries",
          p.result_out.ndim = 5);
  REFUSED(SHAPE, "outs[0].ndim is 4; it must be 3", p.result_out.ndim = 3);
  REFUSED(SHAPE, "outs[1].ndim is 5; it must be 4", p.out[1].ndim = 5);
  REFUSED(SHAPE, "lses[0].ndim is 4; it must be 3", p.lse[0].ndim = 4);
  REFUSED(SHAPE, "lse.ndim is 4; it must be 3", p.result_lse.ndim = 4);
  REFUSED(SHAPE, "outs.ndim is 4; it must be 5 (num_states, batch, s_q, h_q, d_v)", p.params.num_states = 0);
  REFUSED(SHAPE, "out.shape[3] is 24, outs[0].shape[3] (d_v) is 16", p.result_shape[3] = 24);
  REFUSED(SHAPE, "lses[0].shape[1] is 5, outs[0].shape[2] (h_q) is 4", p.lse_shape[1] = 5);
  REFUSED(DTYPE, "outs[0].dtype is int32", p.out[0].dtype = ((DLDataType){kDLInt, 32, 1}));
  REFUSED(DTYPE, "outs[2].dtype is float16, outs[0].dtype is bfloat16; they must be equal", p.out[2].dtype = FP16);
  REFUSED(DTYPE, "lses[1].dtype is bfloat16; it must be float32", p.lse[1].dtype = BF16);
  REFUSED(DTYPE, "out.dtype is float64; it must be bfloat16, float16 or float32", p.result_out.dtype.code = kDLFloat;
          p.result_out.dtype.bits = 64);
  REFUSED(DTYPE, "lse.dtype is float16", p.result_lse.dtype = FP16);
  REFUSED(DEVICE, "lses[1].device.device_type is 7", p.lse[1].device.device_type = 7);
  REFUSED(MIXED_DEVICES, "outs[2] is on cuda:0, outs[0] is on cpu:0", p.out[2].device.device_type = kDLCUDA);
  REFUSED(STRIDE, "outs[0].strides[3] is 2; the innermost stride must be 1", p.out_strides[3] = 2);
  REFUSED(STRIDE, "lses[0].strides[0] is -4; it must be >= 0", p.lse_strides[0] = -4);
  REFUSED(STRIDE, "lse.strides[0] is 0; it must be > 0", p.result_lse_strides[0] = 0);
  REFUSED(STRIDE, "or the output overlaps itself", p.result_strides[1] = 16);
  REFUSED(ALIGNMENT, "outs[1] starts at address", p.out[1].byte_offset = 8);
  REFUSED(ALIGNMENT, "lses[1] starts at address", p.lse[1].byte_offset = 2);
  REFUSED(ALIGNMENT, "out.strides[2] is 20 elements (40 bytes)", p.result_strides[2] = 20);
  REFUSED(ZERO_EXTENT, "(h_q) is 0", p.out_shape[2] = 0);
  REFUSED(UNSUPPORTED, "out.shape[3] (d_v) is 12; supported are multiples of 8", p.out_shape[3] = 12;
          p.result_shape[3] = 12);
  REFUSED(OVERFLOW, "rows; there must be fewer than 2^31",
          p.out_shape[0] = p.result_shape[0] = p.lse_shape[0] = p.result_lse_shape[0] = 1 << 29);
}

/* Rule by rule over all tensors, in the order of operation.h. */
static void order_of_rules(void) {
  REFUSED(SHAPE, "lses[2].ndim is 1", p.out[0].dtype = FP32; p.lse[2].ndim = 1);
  REFUSED(DTYPE, "outs[1].dtype is int32; it must be bfloat16, float16 or float32", p.lse[0].device.device_type = 7;
          p.out[1].dtype = ((DLDataType){kDLInt, 32, 1}));
  REFUSED(DTYPE, "lses[0].dtype is float16", p.lse[0].dtype = FP16; p.result_out.device.device_type = 7);
  REFUSED(DEVICE, "out.device.device_type is 7", p.result_out.device.device_type = 7; p.out_shape[1] = 9);
  int64_t heads[] = {B, S, 5, D}, requests[] = {INT64_C(1) << 31, S, H, D};
  REFUSED(SHAPE, "outs[1].shape[2] is 5, outs[0].shape[2] (h_q) is 4; they must be equal", p.out[1].shape = heads;
          p.out_strides[3] = 2);
  REFUSED(OVERFLOW, "outs[2].shape[0] (batch) is 2147483648; it must be < 2^31", p.out[2].shape = requests;
          p.result_shape[1] = 9);
  REFUSED(UNSUPPORTED, "d_v", p.out_shape[3] = p.result_shape[3] = 12; p.result_strides[0] = 0);
}

static void listed(void) {
  init(&p, 3, 0, 0);
  p.params.flags = FLASHMLA_LSE_BASE2 | FLASHMLA_EMPTY_LSE_MINUS;
  p.params.num_threads = 5;
  p.params.stream = &p;
  p.out[1].byte_offset = 32; /* not evenly spaced */
  p.result_out.dtype = FP16;
  run(kDLCPU);
  const fm_merge *m = &fake_merge;
  CHECK(m->dtype == FM_BF16 && m->out_dtype == FM_FP16 && m->num_states == 3 && !m->stacked);
  CHECK(m->batch == B && m->s_q == S && m->h_q == H && m->d_v == D && m->num_threads == 5 && m->stream == &p);
  CHECK(m->lse_base2 && m->empty_lse == -INFINITY);
  CHECK(fake_states[1].out == (char *)p.out[1].data + 32 && fake_states[2].lse == p.lse[2].data);
  CHECK(fake_states[0].out_stride[0] == S * H * D && fake_states[0].out_stride[2] == D);
  CHECK(fake_states[0].lse_stride[0] == H * S && fake_states[0].lse_stride[1] == S);
  CHECK(m->result.out == result && m->result.lse == (float *)result_lses);
  CHECK(m->result.out_stride[1] == H * D && m->result.lse_stride[2] == 1);
  p.params.lse = NULL;
  p.params.flags = 0;
  run(kDLCUDA);
  CHECK(m->result.lse == NULL && !m->lse_base2 && m->empty_lse == INFINITY);
}

static void evenly_spaced(void) {
  init(&p, 20, 0, 0);
  run(kDLCUDA); /* more than kernel parameters hold */
  const fm_merge *m = &fake_merge;
  CHECK(m->stacked && m->num_states == 20 && fake_states[0].out == values);
  CHECK(m->out_state_stride == OUT_BYTES / 2 && m->lse_state_stride == LSE_BYTES / 4);
  for (int i = 0; i < 10; ++i) { /* the other way round */
    const DLTensor *out = p.outs[i], *lse = p.lses[i];
    p.outs[i] = p.outs[19 - i];
    p.lses[i] = p.lses[19 - i];
    p.outs[19 - i] = out;
    p.lses[19 - i] = lse;
  }
  run(kDLCPU);
  CHECK(m->stacked && m->out_state_stride == -OUT_BYTES / 2 && m->lse_state_stride == -LSE_BYTES / 4);
  init(&p, 1, 0, 0);
  run(kDLCPU);
  CHECK(m->stacked && m->num_states == 1);
  init(&p, 3, 0, 0);
  p.lse[2].byte_offset = 4;
  run(kDLCPU);
  CHECK(!m->stacked);
  init(&p, 3, 0, 0);
  int64_t other[] = {S * H * D, 2 * H * D, D, 1};
  p.out[1].strides = other;
  run(kDLCPU);
  CHECK(!m->stacked && fake_states[1].out_stride[1] == 2 * H * D);
}

static void too_many(void) {
  init(&p, 17, 0, 0);
  p.out[3].byte_offset = 16;
  set_device(&p, kDLCUDA);
  CHECK_STATUS(flashmla_merge_states(&p.params), FLASHMLA_ERROR_UNSUPPORTED,
               "params.num_states is 17; supported on CUDA are up to 16 separate tensors: stack them in one");
  run(kDLCPU);
  init(&p, FM_MAX_CPU_STATES, 0, 0);
  run(kDLCPU);
  CHECK(!fake_merge.stacked && fake_merge.num_states == FM_MAX_CPU_STATES);
  init(&p, FM_MAX_CPU_STATES + 1, 0, 0);
  CHECK_STATUS(flashmla_merge_states(&p.params), FLASHMLA_ERROR_UNSUPPORTED, "up to 1024 separate tensors");
}

static void stacked(void) {
  init(&p, 1, 7, 0);
  run(kDLCUDA);
  const fm_merge *m = &fake_merge;
  CHECK(m->stacked && m->num_states == 7 && m->batch == B && m->s_q == S && m->h_q == H && m->d_v == D);
  CHECK(m->out_state_stride == OUT_BYTES / 2 && m->lse_state_stride == LSE_BYTES / 4);
  CHECK(fake_states[0].out_stride[0] == S * H * D && fake_states[0].lse_stride[1] == S);
  p.lse_shape[0] = 6;
  CHECK_STATUS(flashmla_merge_states(&p.params), FLASHMLA_ERROR_SHAPE,
               "lses.shape[0] is 6, outs.shape[0] (num_states) is 7");
  p.out_shape[0] = p.lse_shape[0] = 0;
  CHECK_STATUS(flashmla_merge_states(&p.params), FLASHMLA_ERROR_ZERO_EXTENT, "outs.shape[0] (num_states) is 0");
}

static void variable_length(void) {
  const fm_merge *m = &fake_merge;
  for (int stack = 0; stack < 8; stack += 7) {
    init(&p, stack ? 1 : 3, stack, 1);
    run(kDLCPU);
    CHECK(m->batch == 1 && m->s_q == S && m->h_q == H && m->d_v == D && m->num_states == (stack ? 7 : 3));
    CHECK(fake_states[0].out_stride[0] == 0 && fake_states[0].out_stride[1] == H * D);
    CHECK(m->result.lse_stride[0] == 0 && m->result.lse_stride[1] == S && m->result.lse_stride[2] == 1);
  }
}

static void empty(void) {
  init(&p, 3, 0, 0);
  p.out_shape[0] = p.lse_shape[0] = p.result_shape[0] = p.result_lse_shape[0] = 0;
  p.out[0].data = p.result_out.data = NULL;
  CHECK_OK(flashmla_merge_states(&p.params));
  init(&p, 3, 0, 1);
  p.out_shape[0] = p.lse_shape[1] = p.result_shape[0] = p.result_lse_shape[1] = 0;
  CHECK_OK(flashmla_merge_states(&p.params));
  CHECK(fake.cpu_launches == 0 && strcmp(flashmla_last_kernel(), "") == 0);
}

int main(void) {
  rules();
  order_of_rules();
  listed();
  evenly_spaced();
  too_many();
  stacked();
  variable_length();
  empty();
  return 0;
}
