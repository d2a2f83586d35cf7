/* tensor.c - checks of presence, rank, dtype, device and extents over a table of tensor arguments. */
#include "tensor.h"

#include <stdio.h>
#include <string.h>

#include "try.h"

static const char *const extent_names[FM_EXTENTS] = {
    [FM_BATCH] = "batch",         [FM_S_Q] = "s_q",           [FM_H_Q] = "h_q",
    [FM_D_QK] = "d_qk",           [FM_D_V] = "d_v",           [FM_NUM_BLOCKS] = "num_blocks",
    [FM_PAGE_SIZE] = "page_size", [FM_H_KV] = "h_kv",         [FM_MAX_BLOCKS] = "max_blocks",
    [FM_TOTAL_Q] = "total_q",     [FM_OFFSETS] = "batch + 1", [FM_NUM_STATES] = "num_states",
};

fm_argument fm_drop_batch(fm_argument argument) {
  int32_t rank = 0;
  for (int32_t axis = 0; axis < argument.rank; ++axis) {
    const fm_extent extent = argument.axes[axis];
    if (extent != FM_BATCH) argument.axes[rank++] = extent == FM_S_Q ? FM_TOTAL_Q : extent;
  }
  argument.rank = rank;
  return argument;
}

void fm_strides_from_batch(const int64_t *stride, bool dropped, int64_t from_batch[3]) {
  from_batch[0] = 0;
  memcpy(&from_batch[dropped], stride, sizeof *stride * (dropped ? 2 : 3));
}

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

/* Indexed by fm_dtype. */
static const DLDataType floats[] = {
    [FM_BF16] = {kDLBfloat, 16, 1}, [FM_FP16] = {kDLFloat, 16, 1}, [FM_FP32] = {kDLFloat, 32, 1}};

fm_dtype fm_float_of(const DLTensor *tensor) {
  fm_dtype found = FM_BF16;
  while (found <= FM_FP32 && !same_dtype(tensor->dtype, floats[found])) ++found;
  return found;
}

flashmla_status fm_check_dtypes(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count) {
  const DLDataType first = tensors[0]->dtype;
  for (int32_t i = 0; i < count; ++i) {
    if (tensors[i] == NULL) continue;
    const char *name = arguments[i].name;
    const fm_element element = arguments[i].element;
    const DLDataType dtype = tensors[i]->dtype,
                     wanted = element == FM_INT32 ? (DLDataType){kDLInt, 32, 1} : floats[FM_FP32];
    if (i == 0 || element == FM_ANY_FLOAT) {
      if (fm_float_of(tensors[i]) > FM_FP32)
        return fm_fail(FLASHMLA_ERROR_DTYPE, "%s.dtype is %s; it must be bfloat16, float16 or float32", name,
                       describe_dtype(dtype).chars);
    } else if (element == FM_AS_FIRST || element == FM_AS_FIRST_OR_FLOAT32) {
      const bool widened = element == FM_AS_FIRST_OR_FLOAT32 && same_dtype(dtype, wanted);
      if (!same_dtype(dtype, first) && !widened)
        return fm_fail(FLASHMLA_ERROR_DTYPE, "%s.dtype is %s, %s.dtype is %s; they must be equal%s", name,
                       describe_dtype(dtype).chars, arguments[0].name, describe_dtype(first).chars,
                       element == FM_AS_FIRST ? "" : ", or the former float32");
    } else if (!same_dtype(dtype, wanted)) {
      return fm_fail(FLASHMLA_ERROR_DTYPE, "%s.dtype is %s; it must be %s", name, describe_dtype(dtype).chars,
                     describe_dtype(wanted).chars);
    }
  }
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
  const int64_t least = extent == FM_BATCH || extent == FM_S_Q || extent == FM_TOTAL_Q ? 0 : 1;
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
