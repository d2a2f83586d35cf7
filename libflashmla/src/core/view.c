/* view.c - strides and address of one tensor argument: the rules, and the flat view the backends work on. */
#include <string.h>

#include "core/argument.h"

/* A tensor map holds strides below 2^40 bytes (CUDA driver API, cuTensorMapEncodeTiled, globalStrides). Maps also step
 * by several elements of an axis, a group of heads or 64 rows of a page, so the bound is put on what the whole axis
 * spans. */
#define FM_TENSOR_MAP_SPAN (INT64_C(1) << 40)

/* A tensor with its row. */
typedef struct given {
  const fm_tensors *tensors;
  int32_t row, element;
  const fm_argument *rule;
  const DLTensor *tensor;
} given;

static given given_at(const fm_tensors *tensors, int32_t row, int32_t element) {
  return (given){tensors, row, element, &tensors->rows[row], fm_tensor_at(tensors, row, element)};
}

/* Bytes. */
static uint32_t alignment_of(given g) {
  const uint32_t element_bytes = g.tensor->dtype.bits / 8u;
  return element_bytes > g.rule->alignment ? element_bytes : g.rule->alignment;
}

static bool is_aligned(uint64_t value, given g) { return (value & (alignment_of(g) - 1u)) == 0; }

#define NAME(g) fm_tensor_name((g).tensors, (g).row, (g).element).chars

static flashmla_status read_strides(given g, int64_t *stride) {
  int64_t compact = 1;
  for (int32_t axis = g.rule->rank - 1; axis >= 0; --axis) {
    const int64_t extent = g.tensor->shape[axis];
    stride[axis] = g.tensor->strides != NULL ? g.tensor->strides[axis] : compact;
    if (g.tensor->strides == NULL && extent > 1 && __builtin_mul_overflow(compact, extent, &compact))
      return fm_fail(FLASHMLA_ERROR_OVERFLOW, "%s has more than 2^63 elements; its size must fit 64 bits", NAME(g));
  }
  return FLASHMLA_OK;
}

/* The bytes of a page lie behind one another: what is where in it follows from the format. */
static flashmla_status check_packed(given g, const int64_t *stride) {
  int64_t compact = 1;
  for (int32_t axis = g.rule->rank - 1; axis > 0; --axis) {
    if (g.tensor->shape[axis] == 1) continue;
    if (stride[axis] != compact)
      return fm_fail(FLASHMLA_ERROR_STRIDE, "%s.strides[%d] is %lld; it must be %lld: a page of bytes is contiguous",
                     NAME(g), axis, (long long)stride[axis], (long long)compact);
    if (__builtin_mul_overflow(compact, g.tensor->shape[axis], &compact))
      return fm_fail(FLASHMLA_ERROR_OVERFLOW, "a page of %s has more than 2^63 bytes; its size must fit 64 bits",
                     NAME(g));
  }
  return FLASHMLA_OK;
}

static flashmla_status check_strides(given g, const int64_t *stride) {
  const int64_t element_bytes = g.tensor->dtype.bits / 8;
  const bool cuda = (int32_t)g.tensor->device.device_type == kDLCUDA;
  const bool tensor_map = cuda && g.rule->mapped;
  int64_t bytes = 0; /* an upper bound of the tensor's span */
  if (g.rule->packed) FM_TRY(check_packed(g, stride));
  for (int32_t axis = 0; axis < g.rule->rank; ++axis) {
    if (g.tensor->shape[axis] == 1) continue;
    const bool innermost = axis == g.rule->rank - 1;
    if (innermost && !g.rule->free_innermost && stride[axis] != 1)
      return fm_fail(FLASHMLA_ERROR_STRIDE, "%s.strides[%d] is %lld; the innermost stride must be 1", NAME(g), axis,
                     (long long)stride[axis]);
    const bool positive = g.rule->written || tensor_map;
    if (stride[axis] < 0 || (stride[axis] == 0 && positive))
      return fm_fail(FLASHMLA_ERROR_STRIDE, "%s.strides[%d] is %lld; %sit must be %s 0", NAME(g), axis,
                     (long long)stride[axis], positive && !g.rule->written ? "on CUDA " : "", positive ? ">" : ">=");
    int64_t stride_bytes, axis_bytes;
    if (__builtin_mul_overflow(stride[axis], element_bytes, &stride_bytes) ||
        __builtin_mul_overflow(stride_bytes, (int64_t)g.tensor->shape[axis], &axis_bytes) ||
        __builtin_add_overflow(bytes, axis_bytes, &bytes))
      return fm_fail(FLASHMLA_ERROR_OVERFLOW,
                     "%s.strides[%d] is %lld over %lld elements; byte offsets must fit 64 bits", NAME(g), axis,
                     (long long)stride[axis], (long long)g.tensor->shape[axis]);
    const bool within_page = g.rule->packed && axis > 0;
    if (!innermost && !within_page && !is_aligned((uint64_t)stride_bytes, g))
      return fm_fail(FLASHMLA_ERROR_ALIGNMENT,
                     "%s.strides[%d] is %lld elements (%lld bytes); it must be a multiple of %u bytes", NAME(g), axis,
                     (long long)stride[axis], (long long)stride_bytes, alignment_of(g));
    if (tensor_map && axis_bytes >= FM_TENSOR_MAP_SPAN)
      return fm_fail(FLASHMLA_ERROR_OVERFLOW,
                     "%s.strides[%d] is %lld over %lld elements (%lld bytes); on CUDA it must be < 2^40 bytes", NAME(g),
                     axis, (long long)stride[axis], (long long)g.tensor->shape[axis], (long long)axis_bytes);
  }
  return FLASHMLA_OK;
}

/* Each axis must step over all that the axes of smaller stride span. This also refuses a few interleaved layouts that
 * would not overlap, such as extents (2, 3) with strides (3, 2). */
static flashmla_status check_overlap(given g, const int64_t *stride) {
  int32_t order[FM_MAX_RANK], used = 0; /* axes longer than 1, by increasing stride */
  for (int32_t axis = 0; axis < g.rule->rank; ++axis) {
    if (g.tensor->shape[axis] == 1) continue;
    int32_t at = used++;
    for (; at > 0 && stride[order[at - 1]] > stride[axis]; --at) order[at] = order[at - 1];
    order[at] = axis;
  }
  int64_t span = 0; /* offset of the last element that the axes so far reach */
  for (int32_t i = 0; i < used; ++i) {
    const int32_t axis = order[i];
    if (stride[axis] <= span)
      return fm_fail(FLASHMLA_ERROR_STRIDE, "%s.strides[%d] is %lld; it must be > %lld, or the output overlaps itself",
                     NAME(g), axis, (long long)stride[axis], (long long)span);
    span += (g.tensor->shape[axis] - 1) * stride[axis];
  }
  return FLASHMLA_OK;
}

static bool has_elements(given g) {
  for (int32_t axis = 0; axis < g.rule->rank; ++axis)
    if (g.tensor->shape[axis] == 0) return false;
  return true;
}

/* From the first element to behind the last; of checked strides, so nothing overflows. */
static uint64_t span_of(given g, const int64_t *stride) {
  int64_t last = 0;
  for (int32_t axis = 0; axis < g.rule->rank; ++axis)
    if (g.tensor->shape[axis] > 1) last += (g.tensor->shape[axis] - 1) * stride[axis];
  return ((uint64_t)last + 1) * (g.tensor->dtype.bits / 8u);
}

/* Address of the elements, byte_offset applied; NULL where that may be. */
static flashmla_status find_address(given g, fm_reach reach, bool empty, void **address) {
  *address = NULL;
  if (g.tensor->data == NULL) {
    if (empty) return FLASHMLA_OK;
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s.data is NULL; it must point to the elements", NAME(g));
  }
  uintptr_t found, end;
  if (__builtin_add_overflow((uintptr_t)g.tensor->data, g.tensor->byte_offset, &found) ||
      __builtin_add_overflow(found, reach.span - 1, &end))
    return fm_fail(FLASHMLA_ERROR_OVERFLOW,
                   "%s.byte_offset is %llu from data 0x%llx on; its %llu bytes must end below address 2^64", NAME(g),
                   (unsigned long long)g.tensor->byte_offset, (unsigned long long)(uintptr_t)g.tensor->data,
                   (unsigned long long)reach.span);
  if ((found & (reach.alignment - 1u)) != 0)
    return fm_fail(FLASHMLA_ERROR_ALIGNMENT, "%s starts at address 0x%llx; it must be a multiple of %u bytes", NAME(g),
                   (unsigned long long)found, reach.alignment);
  *address = (void *)found;
  return FLASHMLA_OK;
}

flashmla_status fm_view_address(const fm_tensors *tensors, int32_t row, int32_t element, fm_reach reach,
                                void **address) {
  const given g = given_at(tensors, row, element);
  if (g.tensor == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s is {NULL|None}; the tensor is required", NAME(g));
  return find_address(g, reach, false, address);
}

flashmla_status fm_view_tensor(const fm_tensors *tensors, int32_t row, int32_t element, bool empty, fm_view *view) {
  const given g = given_at(tensors, row, element);
  *view = (fm_view){.data = NULL};
  /* Frameworks give tensors without elements any strides, 0 among them, and any address. */
  if (g.tensor == NULL || !has_elements(g)) return FLASHMLA_OK;
  FM_TRY(read_strides(g, view->stride));
  FM_TRY(check_strides(g, view->stride));
  if (g.rule->written) FM_TRY(check_overlap(g, view->stride));
  view->reach = (fm_reach){span_of(g, view->stride), alignment_of(g)};
  for (int32_t axis = 0; axis < g.rule->rank; ++axis)
    if (g.tensor->shape[axis] == 1) view->stride[axis] = g.tensor->shape[g.rule->rank - 1];
  return find_address(g, view->reach, empty, &view->data);
}

void fm_strides_from_batch(const int64_t *stride, bool dropped, int64_t from_batch[3]) {
  from_batch[0] = 0;
  memcpy(&from_batch[dropped], stride, sizeof *stride * (dropped ? 2 : 3));
}
