/* fixture.c - see fixture.h. */
#include "fixture.h"

#include "check.h"

static void *allocate(size_t bytes, int fill) {
  void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
  CHECK(memory != NULL);
  memset(memory, fill, bytes);
  return memory;
}

static void add_tensor(fixture *f, int which, int32_t rank, const int64_t *shape, DLDataType dtype, int fill) {
  int64_t elements = 1;
  for (int32_t axis = rank - 1; axis >= 0; --axis) {
    f->shape[which][axis] = shape[axis];
    f->strides[which][axis] = elements;
    elements *= shape[axis] > 0 ? shape[axis] : 1;
  }
  f->bytes[which] = (size_t)elements * dtype.bits / 8;
  f->tensor[which] = (DLTensor){.data = allocate(f->bytes[which], fill),
                                .device = {kDLCPU, 0},
                                .ndim = rank,
                                .dtype = dtype,
                                .shape = f->shape[which],
                                .strides = f->strides[which]};
}

int64_t fixture_d_v(int64_t d_qk) {
  int64_t d_v = 1;
  while (2 * d_v <= d_qk) d_v *= 2;
  return d_v;
}

void fixture_init(fixture *f, geometry g) {
  const DLDataType int32 = {kDLInt, 32, 1};
  memset(f, 0, sizeof *f);
  const int64_t d_qk = g.d_qk != 0 ? g.d_qk : 576, d_v = fixture_d_v(d_qk);
  if (g.varlen) {
    add_tensor(f, Q, 3, (int64_t[]){g.total_q, g.h_q, d_qk}, g.dtype, 0);
    add_tensor(f, OUT, 3, (int64_t[]){g.total_q, g.h_q, d_v}, g.dtype, OUTPUT_FILL);
    add_tensor(f, LSE, 2, (int64_t[]){g.h_q, g.total_q}, FP32, OUTPUT_FILL);
  } else {
    add_tensor(f, Q, 4, (int64_t[]){g.batch, g.s_q, g.h_q, d_qk}, g.dtype, 0);
    add_tensor(f, OUT, 4, (int64_t[]){g.batch, g.s_q, g.h_q, d_v}, g.dtype, OUTPUT_FILL);
    add_tensor(f, LSE, 3, (int64_t[]){g.batch, g.h_q, g.s_q}, FP32, OUTPUT_FILL);
  }
  add_tensor(f, KV_CACHE, 4, (int64_t[]){g.num_blocks, g.page_size, g.h_kv, d_qk}, g.dtype, 0);
  add_tensor(f, BLOCK_TABLE, 2, (int64_t[]){g.batch, g.max_blocks}, int32, 0);
  add_tensor(f, CACHE_SEQLENS, 1, (int64_t[]){g.batch}, int32, 0);
  add_tensor(f, CU_SEQLENS_Q, 1, (int64_t[]){g.batch + 1}, int32, 0);
  add_tensor(f, GLOBAL_SEQLENS, 1, (int64_t[]){g.batch}, int32, 0);
  int32_t *table = f->tensor[BLOCK_TABLE].data;
  for (int64_t i = 0; i < g.batch * g.max_blocks; ++i) table[i] = (int32_t)(i % g.max_blocks % g.num_blocks);

  f->decode = (flashmla_dense_decode_params){.struct_size = sizeof f->decode,
                                             .q = &f->tensor[Q],
                                             .kv_cache = &f->tensor[KV_CACHE],
                                             .block_table = &f->tensor[BLOCK_TABLE],
                                             .cache_seqlens = &f->tensor[CACHE_SEQLENS],
                                             .out = &f->tensor[OUT],
                                             .lse = &f->tensor[LSE],
                                             .softmax_scale = 0.05f};
  f->plan_params = (flashmla_plan_decode_params){.struct_size = sizeof f->plan_params,
                                                 .q = &f->tensor[Q],
                                                 .kv_cache = &f->tensor[KV_CACHE],
                                                 .block_table = &f->tensor[BLOCK_TABLE],
                                                 .cache_seqlens = &f->tensor[CACHE_SEQLENS]};
  if (g.varlen) {
    f->decode.cu_seqlens_q = f->plan_params.cu_seqlens_q = &f->tensor[CU_SEQLENS_Q];
    f->decode.max_seqlen_q = f->plan_params.max_seqlen_q = (int32_t)g.s_q;
  }
  fixture_allocate_workspace(f);
  fixture_allocate_plan_buffer(f);
}

void fixture_free(fixture *f) {
  for (int i = 0; i < TENSORS; ++i) free(f->tensor[i].data);
  free(f->decode.workspace);
  free(f->plan_params.buffer);
}

static void fill(DLTensor *tensor, size_t bytes) {
  float *values = tensor->data;
  for (size_t i = 0; i < bytes / sizeof *values; ++i) values[i] = (float)(i * 2654435761u % 2003) / 1001.5f - 1.0f;
}

void fixture_fill(fixture *f) {
  fill(&f->tensor[Q], f->bytes[Q]);
  fill(&f->tensor[KV_CACHE], f->bytes[KV_CACHE]);
}

void fixture_allocate_workspace(fixture *f) {
  CHECK_OK(flashmla_dense_decode_workspace_size(&f->decode, &f->decode.workspace_size));
  free(f->decode.workspace);
  f->decode.workspace = allocate(f->decode.workspace_size, 0);
}

void fixture_allocate_plan_buffer(fixture *f) {
  CHECK_OK(flashmla_plan_decode_size(&f->plan_params, &f->plan_params.buffer_size));
  free(f->plan_params.buffer);
  f->plan_params.buffer = allocate(f->plan_params.buffer_size, 0);
}

void fixture_set_device(fixture *f, int32_t device_type, int32_t device_id) {
  for (int i = 0; i < TENSORS; ++i) {
    f->tensor[i].device.device_type = device_type;
    f->tensor[i].device.device_id = device_id;
  }
}

void fixture_use_plan(fixture *f, int32_t num_splits) {
  f->plan_params.num_splits = num_splits;
  f->plan_params.flags = f->decode.flags;
  fixture_allocate_plan_buffer(f);
  CHECK_OK(flashmla_plan_decode(&f->plan_params, &f->plan));
  f->decode.plan = &f->plan;
  fixture_allocate_workspace(f);
}

int fixture_outputs_untouched(const fixture *f) {
  for (int which = OUT; which <= LSE; ++which) {
    const unsigned char *bytes = f->tensor[which].data;
    for (size_t i = 0; i < f->bytes[which]; ++i)
      if (bytes[i] != OUTPUT_FILL) return 0;
  }
  return 1;
}
