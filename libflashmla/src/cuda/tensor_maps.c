/* tensor_maps.c - the TMA descriptors of q and kv_cache. */
#include "cuda/launch.h"

/* Strides of the outer dimensions in bytes; where the extent is 1 any legal value will do. */
static void set_stride(uint64_t *strides, const uint64_t *extents, int dimension, int64_t elements) {
  strides[dimension - 1] = extents[dimension] > 1 ? (uint64_t)elements * 2 : 16;
}

static flashmla_status encode(const fm_driver *driver, const fm_problem *problem, CUtensorMap *map, const void *address,
                              uint32_t rank, const uint64_t *extents, const uint64_t *strides, const uint32_t *box) {
  static const uint32_t element_strides[5] = {1, 1, 1, 1, 1};
  int dtype = problem->dtype == FM_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  FM_DRIVER_TRY(driver,
                tensor_map_encode_tiled(map, dtype, rank, (void *)(uintptr_t)address, extents, strides, box,
                                        element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return FLASHMLA_OK;
}

/* q as (d, head in group, token, KV head, request); with variable-length queries the tokens of all requests are those
 * of one. Rows beyond the tensor read as zeros. */
flashmla_status fm_encode_q(const fm_driver *driver, const fm_run *run, CUtensorMap *map) {
  const fm_problem *p = &run->problem;
  const fm_tiling *t = &run->tiling;
  const bool varlen = p->cu_seqlens_q != NULL;
  uint64_t extents[5] = {(uint64_t)p->d_qk, (uint64_t)t->group, (uint64_t)(varlen ? p->total_q : p->s_q),
                         (uint64_t)p->h_kv, varlen ? 1 : (uint64_t)p->batch},
           strides[4];
  set_stride(strides, extents, 1, p->q_stride[2]);
  set_stride(strides, extents, 2, p->q_stride[1]);
  set_stride(strides, extents, 3, p->q_stride[2] * t->group);
  set_stride(strides, extents, 4, p->q_stride[0]);
  uint32_t box[5] = {64, (uint32_t)t->block_heads, (uint32_t)t->block_tokens, 1, 1};
  return encode(driver, p, map, p->q, 5, extents, strides, box);
}

/* kv_cache as (d, row, head, block). A page number outside [0, num_blocks) reads as zeros: the hardware checks the
 * bounds. */
flashmla_status fm_encode_kv(const fm_driver *driver, const fm_problem *p, int32_t box_rows, CUtensorMap *map) {
  uint64_t extents[4] = {(uint64_t)p->d_qk, (uint64_t)p->page_size, (uint64_t)p->h_kv, (uint64_t)p->num_blocks},
           strides[3];
  set_stride(strides, extents, 1, p->kv_stride[1]);
  set_stride(strides, extents, 2, p->kv_stride[2]);
  set_stride(strides, extents, 3, p->kv_stride[0]);
  uint32_t box[4] = {64, (uint32_t)box_rows, 1, 1};
  return encode(driver, p, map, p->kv, 4, extents, strides, box);
}
