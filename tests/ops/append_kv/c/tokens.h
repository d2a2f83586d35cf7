/* tokens.h - a valid call of append_kv in host memory, for tests to change field by field. */
#ifndef TOKENS_H_
#define TOKENS_H_

#include "check.h"

enum { BLOCKS = 3, PAGE = 4, TOKENS = 5, MOST_BYTES = BLOCKS * PAGE * 1152 };

typedef struct tokens {
  DLTensor cache, latent, rope, slots;
  int64_t cache_shape[4], cache_strides[4], latent_shape[2], latent_strides[2], rope_shape[2], rope_strides[2];
  int64_t slots_shape[1], slots_strides[1];
  flashmla_append_kv_params params;
} tokens;

static _Alignas(64) unsigned char cache_memory[MOST_BYTES], latent_memory[TOKENS * 1152], rope_memory[TOKENS * 1152];
static _Alignas(64) int64_t slots_memory[TOKENS];

#define BF16 ((DLDataType){kDLBfloat, 16, 1})
#define FP16 ((DLDataType){kDLFloat, 16, 1})
#define FP32 ((DLDataType){kDLFloat, 32, 1})
#define UINT8 ((DLDataType){kDLUInt, 8, 1})
#define INT32 ((DLDataType){kDLInt, 32, 1})
#define INT64 ((DLDataType){kDLInt, 64, 1})

static inline DLTensor tensor(void *data, DLDataType dtype, int rank, int64_t *shape, int64_t *strides) {
  int64_t elements = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    strides[axis] = elements;
    elements *= shape[axis];
  }
  return (DLTensor){
      .data = data, .device = {kDLCPU, 0}, .ndim = rank, .dtype = dtype, .shape = shape, .strides = strides};
}

/* A cache of the format; latents of bfloat16 with 64 RoPE columns beside them. */
static inline void init(tokens *t, int32_t kv_format) {
  memset(t, 0, sizeof *t);
  const int32_t bytes = flashmla_kv_token_bytes(kv_format), columns = bytes > 0 ? flashmla_kv_columns(kv_format) : 576;
  memcpy(t->cache_shape, ((int64_t[]){BLOCKS, PAGE, 1, bytes > 0 ? bytes : columns}), sizeof t->cache_shape);
  memcpy(t->latent_shape, ((int64_t[]){TOKENS, columns - 64}), sizeof t->latent_shape);
  memcpy(t->rope_shape, ((int64_t[]){TOKENS, 64}), sizeof t->rope_shape);
  t->slots_shape[0] = TOKENS;
  t->cache = tensor(cache_memory, bytes > 0 ? UINT8 : BF16, 4, t->cache_shape, t->cache_strides);
  t->latent = tensor(latent_memory, BF16, 2, t->latent_shape, t->latent_strides);
  t->rope = tensor(rope_memory, BF16, 2, t->rope_shape, t->rope_strides);
  t->slots = tensor(slots_memory, INT64, 1, t->slots_shape, t->slots_strides);
  t->params = (flashmla_append_kv_params)FLASHMLA_APPEND_KV_PARAMS_INIT;
  t->params.kv_cache = &t->cache;
  t->params.latent = &t->latent;
  t->params.rope = &t->rope;
  t->params.slot_mapping = &t->slots;
  t->params.kv_format = kv_format;
}

static inline void set_device(tokens *t, int32_t type) {
  DLTensor *all[] = {&t->cache, &t->latent, &t->rope, &t->slots};
  for (int i = 0; i < 4; ++i) all[i]->device.device_type = (DLDeviceType)type;
}

#endif /* TOKENS_H_ */
