/* view.c - strides and address of one tensor argument: the rules, and the flat view the backends work on. */
#include "tensor.h"
#include "try.h"

/* A tensor map holds strides below 2^40 bytes (CUDA driver API, cuTensorMapEncodeTiled, globalStrides). Maps also step
 * by several elements of an axis, a group of heads or 64 rows of a page, so the bound is put on what the whole axis
 * spans. */
#define FM_TENSOR_MAP_SPAN (INT64_C(1) << 40)
/* Tensors with this alignment are read through tensor maps on CUDA, and by 16-byte vectors elsewhere. */
enum { FM_VECTOR_BYTES = 16 };

static flashmla_status read_strides(const fm_argument *argument, const DLTensor *tensor, int64_t *stride) {
  int64_t compact = 1;
  for (int32_t axis = argument->rank - 1; axis >= 0; --axis) {
    const int64_t extent = tensor->shape[axis];
    stride[axis] = tensor->strides != NULL ? tensor->strides[axis] : compact;
    if (tensor->strides == NULL && extent > 1 && __builtin_mul_overflow(compact, extent, &compact))
      return fm_fail(FLASHMLA_ERROR_OVERFLOW, "%s has more than 2^63 elements; its size must fit 64 bits",
                     argument->name);
  }
  return FLASHMLA_OK;
}

static flashmla_status check_strides(const fm_argument *argument, const DLTensor *tensor, const int64_t *stride) {
  const int64_t element_bytes = tensor->dtype.bits / 8;
  const bool tensor_map = (int32_t)tensor->device.device_type == kDLCUDA && argument->alignment == FM_VECTOR_BYTES;
  int64_t bytes = 0; /* an upper bound of the tensor's span */
  for (int32_t axis = 0; axis < argument->rank; ++axis) {
    if (tensor->shape[axis] == 1) continue;
    const bool innermost = axis == argument->rank - 1;
    if (innermost && !argument->free_innermost && stride[axis] != 1)
      return fm_fail(FLASHMLA_ERROR_STRIDE, "%s.strides[%d] is %lld; the innermost stride must be 1", argument->name,
                     axis, (long long)stride[axis]);
    if (stride[axis] <= 0)
      return fm_fail(FLASHMLA_ERROR_STRIDE, "%s.strides[%d] is %lld; it must be > 0", argument->name, axis,
                     (long long)stride[axis]);
    int64_t stride_bytes, axis_bytes;
    if (__builtin_mul_overflow(stride[axis], element_bytes, &stride_bytes) ||
        __builtin_mul_overflow(stride_bytes, (int64_t)tensor->shape[axis], &axis_bytes) ||
        __builtin_add_overflow(bytes, axis_bytes, &bytes))
      return fm_fail(FLASHMLA_ERROR_OVERFLOW,
                     "%s.strides[%d] is %lld over %lld elements; byte offsets must fit 64 bits", argument->name, axis,
                     (long long)stride[axis], (long long)tensor->shape[axis]);
    if (!innermost && stride_bytes % argument->alignment != 0)
      return fm_fail(FLASHMLA_ERROR_ALIGNMENT,
                     "%s.strides[%d] is %lld elements (%lld bytes); it must be a multiple of %u bytes", argument->name,
                     axis, (long long)stride[axis], (long long)stride_bytes, argument->alignment);
    if (tensor_map && axis_bytes >= FM_TENSOR_MAP_SPAN)
      return fm_fail(FLASHMLA_ERROR_OVERFLOW,
                     "%s.strides[%d] is %lld over %lld elements (%lld bytes); on CUDA it must be < 2^40 bytes",
                     argument->name, axis, (long long)stride[axis], (long long)tensor->shape[axis],
                     (long long)axis_bytes);
  }
  return FLASHMLA_OK;
}

/* Each axis must step over all that the axes of smaller stride span. This also refuses a few interleaved layouts that
 * would not overlap, such as extents (2, 3) with strides (3, 2). */
static flashmla_status check_overlap(const fm_argument *argument, const DLTensor *tensor, const int64_t *stride) {
  int32_t order[FM_MAX_RANK], used = 0; /* axes longer than 1, by increasing stride */
  for (int32_t axis = 0; axis < argument->rank; ++axis) {
    if (tensor->shape[axis] == 1) continue;
    int32_t at = used++;
    for (; at > 0 && stride[order[at - 1]] > stride[axis]; --at) order[at] = order[at - 1];
    order[at] = axis;
  }
  int64_t span = 0; /* offset of the last element that the axes so far reach */
  for (int32_t i = 0; i < used; ++i) {
    const int32_t axis = order[i];
    if (stride[axis] <= span)
      return fm_fail(FLASHMLA_ERROR_STRIDE, "%s.strides[%d] is %lld; it must be > %lld, or the output overlaps itself",
                     argument->name, axis, (long long)stride[axis], (long long)span);
    span += (tensor->shape[axis] - 1) * stride[axis];
  }
  return FLASHMLA_OK;
}

static bool has_elements(const fm_argument *argument, const DLTensor *tensor) {
  for (int32_t axis = 0; axis < argument->rank; ++axis)
    if (tensor->shape[axis] == 0) return false;
  return true;
}

flashmla_status fm_view_tensor(const fm_argument *argument, const DLTensor *tensor, bool empty, fm_view *view) {
  if (!has_elements(argument, tensor)) { /* frameworks give such tensors any strides, 0 among them, and any address */
    *view = (fm_view){.data = NULL};
    return FLASHMLA_OK;
  }
  FM_TRY(read_strides(argument, tensor, view->stride));
  FM_TRY(check_strides(argument, tensor, view->stride));
  if (argument->written) FM_TRY(check_overlap(argument, tensor, view->stride));
  for (int32_t axis = 0; axis < argument->rank; ++axis)
    if (tensor->shape[axis] == 1) view->stride[axis] = tensor->shape[argument->rank - 1];

  if (tensor->data == NULL) {
    if (!empty)
      return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s.data is NULL; it must point to the elements", argument->name);
    view->data = NULL;
    return FLASHMLA_OK;
  }
  const uintptr_t address = (uintptr_t)tensor->data + (uintptr_t)tensor->byte_offset;
  if (address % argument->alignment != 0)
    return fm_fail(FLASHMLA_ERROR_ALIGNMENT, "%s starts at address 0x%llx; it must be a multiple of %u bytes",
                   argument->name, (unsigned long long)address, argument->alignment);
  view->data = (void *)address;
  return FLASHMLA_OK;
}
