/* tensor_maps.c - TMA descriptors. */
#include "cuda/launch.h"

static const int tma_types[FM_DTYPES] = {[FM_BF16] = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                                         [FM_FP16] = CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                                         [FM_FP32] = CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                                         [FM_INT32] = CU_TENSOR_MAP_DATA_TYPE_INT32};

flashmla_status fm_encode(const fm_driver *driver, const fm_tensor_map *tensor, CUtensorMap *map) {
  static const uint32_t element_strides[5] = {1, 1, 1, 1, 1};
  uint64_t extents[5], strides[4]; /* of the outer axes, bytes */
  for (uint32_t axis = 0; axis < tensor->rank; axis++) {
    extents[axis] = (uint64_t)tensor->extents[axis];
    if (axis == 0) continue;
    /* Where the extent is 1 any legal value will do. */
    const uint64_t bytes = (uint64_t)tensor->strides[axis] * (uint64_t)fm_dtype_bytes(tensor->dtype);
    strides[axis - 1] = extents[axis] > 1 ? bytes : 16;
  }
  FM_DRIVER_TRY(driver, tensor_map_encode_tiled, map, tma_types[tensor->dtype], tensor->rank,
                (void *)(uintptr_t)tensor->address, extents, strides, tensor->box, element_strides,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return FLASHMLA_OK;
}

flashmla_status fm_encode_address(const fm_driver *driver, const void *address, CUtensorMap *map) {
  FM_DRIVER_TRY(driver, tensor_map_replace_address, map, (void *)(uintptr_t)address);
  return FLASHMLA_OK;
}
