/* selections.h - a valid call of sparse_decode in host memory, for tests to change field by field. */
#ifndef SELECTIONS_H_
#define SELECTIONS_H_

#include "check.h"

enum {
  BATCH = 3,
  S_Q = 2,
  H_Q = 5,
  BLOCKS = 4,
  PAGE = 6,
  TOPK = 100,
  EXTRA_BLOCKS = 2,
  EXTRA_PAGE = 2,
  EXTRA_TOPK = 7
};
enum { Q, KV, INDICES, LENGTHS, SINK, EXTRA_KV, EXTRA_INDICES, EXTRA_LENGTHS, OFFSETS, OUT, LSE, TENSORS };

typedef struct selections {
  DLTensor tensor[TENSORS];
  int64_t shape[TENSORS][4], strides[TENSORS][4];
  flashmla_sparse_decode_params params;
} selections;

enum { ROOM = 1 << 16 };
static _Alignas(64) unsigned char memory[TENSORS][ROOM], scratch[1 << 26];

#define BF16 ((DLDataType){kDLBfloat, 16, 1})
#define FP16 ((DLDataType){kDLFloat, 16, 1})
#define FP32 ((DLDataType){kDLFloat, 32, 1})
#define UINT8 ((DLDataType){kDLUInt, 8, 1})
#define INT32 ((DLDataType){kDLInt, 32, 1})
#define INT64 ((DLDataType){kDLInt, 64, 1})

static inline void set(selections *s, int which, DLDataType dtype, int rank, const int64_t *shape) {
  int64_t elements = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    s->shape[which][axis] = shape[axis];
    s->strides[which][axis] = elements;
    elements *= shape[axis];
  }
  CHECK(elements * dtype.bits / 8 <= ROOM);
  s->tensor[which] = (DLTensor){.data = memory[which],
                                .device = {kDLCPU, 0},
                                .ndim = rank,
                                .dtype = dtype,
                                .shape = s->shape[which],
                                .strides = s->strides[which]};
}
#define SET(s, which, dtype, ...) \
  set(s, which, dtype, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]){__VA_ARGS__})

/* Caches of the formats, with all that may be given but query offsets. */
static inline void init(selections *s, int32_t kv_format, int32_t extra_kv_format) {
  const int64_t given[] = {flashmla_kv_columns(kv_format), flashmla_kv_columns(extra_kv_format)};
  const int64_t d_qk = given[0] > 0 ? given[0] : given[1] > 0 ? given[1] : 576;
  const int64_t bytes[] = {flashmla_kv_token_bytes(kv_format), flashmla_kv_token_bytes(extra_kv_format)};
  memset(s, 0, sizeof *s);
  SET(s, Q, BF16, BATCH, S_Q, H_Q, d_qk);
  SET(s, KV, bytes[0] > 0 ? UINT8 : BF16, BLOCKS, PAGE, 1, bytes[0] > 0 ? bytes[0] : d_qk);
  SET(s, INDICES, INT32, BATCH, S_Q, TOPK);
  SET(s, LENGTHS, INT32, BATCH);
  SET(s, SINK, FP32, H_Q);
  SET(s, EXTRA_KV, bytes[1] > 0 ? UINT8 : BF16, EXTRA_BLOCKS, EXTRA_PAGE, 1, bytes[1] > 0 ? bytes[1] : d_qk);
  SET(s, EXTRA_INDICES, INT64, BATCH, S_Q, EXTRA_TOPK);
  SET(s, EXTRA_LENGTHS, INT32, BATCH);
  SET(s, OFFSETS, INT32, BATCH + 1);
  SET(s, OUT, BF16, BATCH, S_Q, H_Q, 512);
  SET(s, LSE, FP32, BATCH, H_Q, S_Q);
  s->params = (flashmla_sparse_decode_params)FLASHMLA_SPARSE_DECODE_PARAMS_INIT;
  s->params.q = &s->tensor[Q];
  s->params.kv_cache = &s->tensor[KV];
  s->params.indices = &s->tensor[INDICES];
  s->params.topk_length = &s->tensor[LENGTHS];
  s->params.attn_sink = &s->tensor[SINK];
  s->params.extra_kv_cache = &s->tensor[EXTRA_KV];
  s->params.extra_indices = &s->tensor[EXTRA_INDICES];
  s->params.extra_topk_length = &s->tensor[EXTRA_LENGTHS];
  s->params.out = &s->tensor[OUT];
  s->params.lse = &s->tensor[LSE];
  s->params.softmax_scale = 0.05f;
  s->params.kv_format = kv_format;
  s->params.extra_kv_format = extra_kv_format;
  s->params.workspace = scratch;
  s->params.workspace_size = sizeof scratch;
}

/* Without the second selection. */
static inline void init_alone(selections *s, int32_t kv_format) {
  init(s, kv_format, kv_format);
  s->params.extra_kv_cache = s->params.extra_indices = s->params.extra_topk_length = NULL;
  s->params.extra_kv_format = 0;
}

/* Five query tokens among the requests. */
static inline void make_varlen(selections *s) {
  const int64_t d_qk = s->shape[Q][3];
  SET(s, Q, BF16, 5, H_Q, d_qk);
  SET(s, INDICES, INT32, 5, TOPK);
  SET(s, EXTRA_INDICES, INT64, 5, EXTRA_TOPK);
  SET(s, OUT, BF16, 5, H_Q, 512);
  SET(s, LSE, FP32, H_Q, 5);
  s->params.cu_seqlens_q = &s->tensor[OFFSETS];
  s->params.max_seqlen_q = 4;
}

static inline void set_device(selections *s, int32_t type) {
  for (int i = 0; i < TENSORS; ++i) s->tensor[i].device.device_type = (DLDeviceType)type;
}

#endif /* SELECTIONS_H_ */
