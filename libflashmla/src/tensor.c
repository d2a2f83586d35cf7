/* tensor.c - checks of presence, rank, dtype, device and extents over a table of tensor arguments. */
#include "tensor.h"

#include <stdio.h>

#include "try.h"

static const char *const extent_names[FM_EXTENTS] = {
    [FM_BATCH] = "batch",         [FM_S_Q] = "s_q",   [FM_H_Q] = "h_q",
    [FM_D_QK] = "d_qk",           [FM_D_V] = "d_v",   [FM_NUM_BLOCKS] = "num_blocks",
    [FM_PAGE_SIZE] = "page_size", [FM_H_KV] = "h_kv", [FM_MAX_BLOCKS] = "max_blocks",
};

flashmla_status fm_check_presence(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    const char *name = arguments[i].name;
    const DLTensor *tensor = tensors[i];
    if (tensor == NULL) {
      if (arguments[i].optional) continue;
      return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s is NULL; the tensor is required", name);
    }
    if (tensor->ndim != arguments[i].rank)
      return fm_fail(FLASHMLA_ERROR_SHAPE, "%s.ndim is %d; it must be %d", name, tensor->ndim, arguments[i].rank);
    if (tensor->shape == NULL)
      return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s.shape is NULL; it must list %d extents", name, tensor->ndim);
  }
  return FLASHMLA_OK;
}

typedef struct dtype_text {
  char chars[32];
} dtype_text;

static dtype_text describe_dtype(DLDataType dtype) {
  static const char *const codes[] = {
      [kDLInt] = "int", [kDLUInt] = "uint", [kDLFloat] = "float", [kDLBfloat] = "bfloat"};
  const char *code = dtype.code < sizeof codes / sizeof codes[0] ? codes[dtype.code] : NULL;
  dtype_text text;
  const int used = code != NULL ? snprintf(text.chars, sizeof text.chars, "%s%d", code, dtype.bits)
                                : snprintf(text.chars, sizeof text.chars, "code %d, %d bits", dtype.code, dtype.bits);
  if (dtype.lanes != 1) snprintf(text.chars + used, sizeof text.chars - (size_t)used, "x%d", dtype.lanes);
  return text;
}

static bool same_dtype(DLDataType a, DLDataType b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

flashmla_status fm_check_dtypes(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count,
                                fm_dtype *first) {
  static const DLDataType floats[] = {
      [FM_BF16] = {kDLBfloat, 16, 1}, [FM_FP16] = {kDLFloat, 16, 1}, [FM_FP32] = {kDLFloat, 32, 1}};
  const DLDataType given = tensors[0]->dtype;
  fm_dtype found = FM_BF16;
  while (found <= FM_FP32 && !same_dtype(given, floats[found])) ++found;
  if (found > FM_FP32)
    return fm_fail(FLASHMLA_ERROR_DTYPE, "%s.dtype is %s; it must be bfloat16, float16 or float32", arguments[0].name,
                   describe_dtype(given).chars);
  for (int32_t i = 1; i < count; ++i) {
    if (tensors[i] == NULL) continue;
    const DLDataType dtype = tensors[i]->dtype;
    if (arguments[i].element == FM_AS_FIRST) {
      if (!same_dtype(dtype, given))
        return fm_fail(FLASHMLA_ERROR_DTYPE, "%s.dtype is %s, %s.dtype is %s; they must be equal", arguments[i].name,
                       describe_dtype(dtype).chars, arguments[0].name, describe_dtype(given).chars);
      continue;
    }
    const DLDataType wanted = arguments[i].element == FM_INT32 ? (DLDataType){kDLInt, 32, 1} : floats[FM_FP32];
    if (!same_dtype(dtype, wanted))
      return fm_fail(FLASHMLA_ERROR_DTYPE, "%s.dtype is %s; it must be %s", arguments[i].name,
                     describe_dtype(dtype).chars, describe_dtype(wanted).chars);
  }
  *first = found;
  return FLASHMLA_OK;
}

flashmla_status fm_check_devices(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    if (tensors[i] == NULL) continue;
    const int32_t type = (int32_t)tensors[i]->device.device_type, id = tensors[i]->device.device_id;
    if (type != kDLCPU && type != kDLCUDA)
      return fm_fail(FLASHMLA_ERROR_DEVICE, "%s.device.device_type is %d; it must be kDLCPU (1) or kDLCUDA (2)",
                     arguments[i].name, type);
    if (type == kDLCUDA && id < 0)
      return fm_fail(FLASHMLA_ERROR_DEVICE, "%s.device.device_id is %d; it must be >= 0", arguments[i].name, id);
  }
  const int32_t type = (int32_t)tensors[0]->device.device_type, id = tensors[0]->device.device_id;
  for (int32_t i = 1; i < count; ++i) {
    if (tensors[i] == NULL) continue;
    const int32_t other = (int32_t)tensors[i]->device.device_type, other_id = tensors[i]->device.device_id;
    if (other != type || other_id != id)
      return fm_fail(FLASHMLA_ERROR_MIXED_DEVICES, "%s is on %s:%d, %s is on %s:%d; all tensors must be on one device",
                     arguments[i].name, other == kDLCPU ? "cpu" : "cuda", other_id, arguments[0].name,
                     type == kDLCPU ? "cpu" : "cuda", id);
  }
  return FLASHMLA_OK;
}

static flashmla_status check_range(const char *name, int32_t axis, fm_extent extent, int64_t value) {
  const int64_t least = extent == FM_BATCH || extent == FM_S_Q ? 0 : 1;
  if (value < least)
    return fm_fail(FLASHMLA_ERROR_ZERO_EXTENT, "%s.shape[%d] (%s) is %lld; it must be >= %lld", name, axis,
                   extent_names[extent], (long long)value, (long long)least);
  if (value > INT32_MAX)
    return fm_fail(FLASHMLA_ERROR_OVERFLOW, "%s.shape[%d] (%s) is %lld; it must be < 2^31", name, axis,
                   extent_names[extent], (long long)value);
  return FLASHMLA_OK;
}

flashmla_status fm_check_extents(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count,
                                 int32_t extents[FM_EXTENTS]) {
  for (int32_t i = 0; i < count; ++i)
    for (int32_t axis = 0; tensors[i] != NULL && axis < arguments[i].rank; ++axis)
      FM_TRY(check_range(arguments[i].name, axis, arguments[i].axes[axis], tensors[i]->shape[axis]));

  struct {
    const char *name; /* NULL: not met yet */
    int32_t axis;
  } owner[FM_EXTENTS] = {{NULL, 0}};
  for (int32_t i = 0; i < count; ++i)
    for (int32_t axis = 0; tensors[i] != NULL && axis < arguments[i].rank; ++axis) {
      const fm_extent extent = arguments[i].axes[axis];
      const int32_t value = (int32_t)tensors[i]->shape[axis];
      if (owner[extent].name == NULL) {
        owner[extent].name = arguments[i].name;
        owner[extent].axis = axis;
        extents[extent] = value;
      } else if (value != extents[extent]) {
        return fm_fail(FLASHMLA_ERROR_SHAPE, "%s.shape[%d] is %d, %s.shape[%d] (%s) is %d; they must be equal",
                       arguments[i].name, axis, value, owner[extent].name, owner[extent].axis, extent_names[extent],
                       extents[extent]);
      }
    }
  return FLASHMLA_OK;
}
