/* argument.c - presence, rank, dtype, device and extents over a table of tensor arguments. */
#include "core/argument.h"

#include <string.h>

static void drop_batch(fm_argument *row) {
  uint8_t rank = 0;
  for (int32_t axis = 0; axis < row->rank; ++axis)
    if (row->axes[axis] != FM_BATCH) row->axes[rank++] = row->axes[axis] == FM_S_Q ? FM_TOTAL_Q : row->axes[axis];
  row->rank = rank;
}

static void stack(fm_argument *row) {
  memmove(&row->axes[1], &row->axes[0], row->rank);
  row->axes[0] = FM_NUM_STATES;
  ++row->rank;
}

static void pack(fm_argument *row) {
  row->dtypes = FM_ANY_BYTE;
  row->like = 0;
  row->packed = true;
  if (row->packed_axis != 0) row->axes[row->rank - 1] = row->packed_axis;
}

/* Codes have a scale of the call, too; results like them would have none. What is read beside them is codes, too. */
static void code(const fm_argument *table, fm_argument *row) {
  if (row->coded) row->dtypes = FM_ONLY(FM_BF16) | FM_ANY_BYTE;
  if (row->like == 0 || !row->written || !table[row->like - 1].coded) return;
  row->like = 0;
  row->dtypes |= FM_ONLY(FM_BF16);
}

void fm_arguments_in(fm_form form, const fm_argument *table, int32_t count, fm_argument rows[FM_MAX_ARGUMENTS]) {
  memcpy(rows, table, sizeof *rows * (size_t)count);
  for (int32_t row = 0; row < count; ++row) {
    if (form.varlen && table[row].of_queries) drop_batch(&rows[row]);
    if (form.listed == 0 && table[row].listed) stack(&rows[row]);
    if (form.parted && table[row].parted_axis != 0) rows[row].axes[rows[row].rank - 1] = table[row].parted_axis;
    if (form.coded) code(table, &rows[row]);
    if ((form.packed & table[row].paged) != 0) pack(&rows[row]);
  }
}

fm_text fm_tensor_name(const fm_tensors *tensors, int32_t row, int32_t element) {
  fm_text text = {""};
  fm_append(&text, "%s", tensors->rows[row].name);
  if (tensors->rows[row].listed && tensors->listed > 0) fm_append(&text, "[%d]", element);
  return text;
}

fm_text fm_describe_axes(const fm_axis *axes, const fm_argument *row) {
  fm_text text = {"("};
  for (int32_t axis = 0; axis < row->rank; ++axis)
    fm_append(&text, "%s%s", axis > 0 ? ", " : "", axes[row->axes[axis]].name);
  fm_append(&text, ")");
  return text;
}

fm_text fm_describe_device(bool cuda, int32_t id) {
  fm_text text = {""};
  fm_append(&text, "%s:%d", cuda ? "cuda" : "cpu", id);
  return text;
}

static fm_text device_of(const DLTensor *tensor) {
  return fm_describe_device((int32_t)tensor->device.device_type == kDLCUDA, tensor->device.device_id);
}

#define NAME(row, element) fm_tensor_name(tensors, row, element).chars
/* Loops over every tensor that is given. */
#define EACH_TENSOR(row, element, tensor)                                       \
  for (int32_t row = 0; row < tensors->count; ++row)                            \
    for (int32_t element = 0; element < fm_tensors_of(tensors, row); ++element) \
      for (const DLTensor *tensor = fm_tensor_at(tensors, row, element); tensor != NULL; tensor = NULL)

/* Where query offsets decide on the rank, the sentence names them. */
static flashmla_status fail_rank(const fm_tensors *tensors, int32_t row, int32_t element, int32_t ndim) {
  const fm_argument *rule = &tensors->rows[row];
  int32_t offsets = 0;
  while (offsets < tensors->count && !tensors->rows[offsets].offsets) ++offsets;
  const bool decided = rule->of_queries && offsets < tensors->count;
  const bool varlen = decided && tensors->given[offsets] != NULL;
  fm_text with = {""}, other = {""};
  if (varlen) with = fm_text_of("with %s ", tensors->rows[offsets].name);
  if (decided && !varlen) other = fm_text_of(", or %d with %s", rule->rank - 1, tensors->rows[offsets].name);
  return fm_fail(FLASHMLA_ERROR_SHAPE, "%s.ndim is %d; %sit must be %d %s%s", NAME(row, element), ndim, with.chars,
                 rule->rank, fm_describe_axes(tensors->axes, rule).chars, other.chars);
}

static flashmla_status check_form(const fm_tensors *tensors, int32_t row, int32_t element) {
  const DLTensor *tensor = fm_tensor_at(tensors, row, element);
  const int32_t rank = tensors->rows[row].rank;
  if (tensor == NULL) {
    if (tensors->rows[row].optional) return FLASHMLA_OK;
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s is {NULL|None}; the tensor is required", NAME(row, element));
  }
  if (tensor->ndim != rank) return fail_rank(tensors, row, element, tensor->ndim);
  if (tensor->shape == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s.shape is NULL; it must list %d extents", NAME(row, element), rank);
  return FLASHMLA_OK;
}

flashmla_status fm_check_lists(const fm_tensors *tensors) {
  for (int32_t row = 0; row < tensors->count; ++row)
    if (tensors->rows[row].listed && tensors->given[row] == NULL)
      return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s is {NULL|None}; the tensors are required",
                     tensors->rows[row].name);
  return FLASHMLA_OK;
}

flashmla_status fm_check_presence(const fm_tensors *tensors) {
  FM_TRY(fm_check_lists(tensors));
  for (int32_t row = 0; row < tensors->count; ++row)
    for (int32_t element = 0; element < fm_tensors_of(tensors, row); ++element)
      FM_TRY(check_form(tensors, row, element));
  return FLASHMLA_OK;
}

static bool same_dtype(DLDataType a, DLDataType b) { return memcmp(&a, &b, sizeof a) == 0; }

/* `unless`: what else would do. */
static flashmla_status fail_unequal(const fm_tensors *tensors, int32_t row, int32_t element, DLDataType dtype,
                                    int32_t other, fm_text unless) {
  const DLDataType wanted = fm_tensor_at(tensors, other, 0)->dtype;
  return fm_fail(FLASHMLA_ERROR_DTYPE, "%s.dtype is %s, %s.dtype is %s; they must be equal%s", NAME(row, element),
                 fm_describe_dtype(dtype).chars, NAME(other, 0), fm_describe_dtype(wanted).chars, unless.chars);
}

/* A dtype that the row does not have in this form. Bytes it has in another one. */
static flashmla_status fail_dtype(const fm_tensors *tensors, int32_t row, int32_t element, DLDataType dtype) {
  const fm_argument *rule = &tensors->rows[row];
  fm_text unless = {""};
  if (rule->like != 0 && rule->dtypes != 0)
    fm_append(&unless, ", or the former %s", fm_describe_dtypes(rule->dtypes).chars);
  if (rule->packed_by != NULL && (FM_ONLY(fm_dtype_of(dtype)) & FM_ANY_BYTE) != 0)
    fm_append(&unless, ", or %s%s must name the format of the bytes", fm_named("{params.|}").chars, rule->packed_by);
  if (rule->like != 0) return fail_unequal(tensors, row, element, dtype, rule->like - 1, unless);
  return fm_fail(FLASHMLA_ERROR_DTYPE, "%s.dtype is %s; it must be %s%s", NAME(row, element),
                 fm_describe_dtype(dtype).chars, fm_describe_dtypes(rule->dtypes).chars, unless.chars);
}

static flashmla_status check_dtype(const fm_tensors *tensors, int32_t row, int32_t element, DLDataType dtype) {
  const fm_argument *rule = &tensors->rows[row];
  const fm_dtype known = fm_dtype_of(dtype);
  const bool allowed = known < FM_DTYPES && (rule->dtypes & FM_ONLY(known)) != 0;
  if (!allowed && (rule->like == 0 || !same_dtype(dtype, fm_tensor_at(tensors, rule->like - 1, 0)->dtype)))
    return fail_dtype(tensors, row, element, dtype);
  if (!same_dtype(dtype, fm_tensor_at(tensors, row, 0)->dtype)) /* those of a list are like its first */
    return fail_unequal(tensors, row, element, dtype, row, (fm_text){""});
  return FLASHMLA_OK;
}

flashmla_status fm_check_dtypes(const fm_tensors *tensors) {
  EACH_TENSOR(row, element, tensor) FM_TRY(check_dtype(tensors, row, element, tensor->dtype));
  return FLASHMLA_OK;
}

flashmla_status fm_check_devices(const fm_tensors *tensors) {
  EACH_TENSOR(row, element, tensor) {
    const int32_t type = (int32_t)tensor->device.device_type, id = tensor->device.device_id;
    if (type != kDLCPU && type != kDLCUDA)
      return fm_fail(FLASHMLA_ERROR_DEVICE, "%s.device.device_type is %d; it must be kDLCPU (1) or kDLCUDA (2)",
                     NAME(row, element), type);
    if (type == kDLCUDA && id < 0)
      return fm_fail(FLASHMLA_ERROR_DEVICE, "%s.device.device_id is %d; it must be >= 0", NAME(row, element), id);
  }
  const DLTensor *first = fm_tensor_at(tensors, 0, 0);
  EACH_TENSOR(row, element, tensor) {
    if (tensor->device.device_type != first->device.device_type || tensor->device.device_id != first->device.device_id)
      return fm_fail(FLASHMLA_ERROR_MIXED_DEVICES, "%s is on %s, %s is on %s; all tensors must be on one device",
                     NAME(row, element), device_of(tensor).chars, NAME(0, 0), device_of(first).chars);
  }
  return FLASHMLA_OK;
}

static flashmla_status check_range(const fm_tensors *tensors, int32_t row, int32_t element, int32_t axis,
                                   int64_t extent) {
  const fm_axis *named = &tensors->axes[tensors->rows[row].axes[axis]];
  const int64_t least = named->may_be_empty ? 0 : 1;
  if (extent < least)
    return fm_fail(extent < 0 ? FLASHMLA_ERROR_SHAPE : FLASHMLA_ERROR_ZERO_EXTENT,
                   "%s.shape[%d] (%s) is %lld; it must be >= %lld", NAME(row, element), axis, named->name,
                   (long long)extent, (long long)least);
  if (extent > INT32_MAX)
    return fm_fail(FLASHMLA_ERROR_OVERFLOW, "%s.shape[%d] (%s) is %lld; it must be < 2^31", NAME(row, element), axis,
                   named->name, (long long)extent);
  if (tensors->rows[row].axes[axis] == FM_ONE && extent != 1)
    return fm_fail(FLASHMLA_ERROR_SHAPE, "%s.shape[%d] is %lld; it must be 1", NAME(row, element), axis,
                   (long long)extent);
  return FLASHMLA_OK;
}

static flashmla_status fail_unequal_extents(const fm_tensors *tensors, int32_t row, int32_t element, int32_t axis,
                                            int32_t extent) {
  const int32_t which = tensors->rows[row].axes[axis];
  int32_t owner = 0, owner_axis = 0; /* the first that has the axis */
  while (tensors->given[owner] == NULL || tensors->rows[owner].axes[owner_axis] != which) {
    const bool more = tensors->given[owner] != NULL && owner_axis + 1 < tensors->rows[owner].rank;
    owner += more ? 0 : 1;
    owner_axis = more ? owner_axis + 1 : 0;
  }
  return fm_fail(FLASHMLA_ERROR_SHAPE, "%s.shape[%d] is %d, %s.shape[%d] (%s) is %d; they must be equal",
                 NAME(row, element), axis, extent, NAME(owner, 0), owner_axis, tensors->axes[which].name,
                 (int32_t)fm_tensor_at(tensors, owner, 0)->shape[owner_axis]);
}

flashmla_status fm_check_extents(const fm_tensors *tensors, int32_t extents[FM_MAX_AXES]) {
  bool met[FM_MAX_AXES] = {false};
  memset(extents, 0, sizeof *extents * FM_MAX_AXES);
  EACH_TENSOR(row, element, tensor)
  for (int32_t axis = 0; axis < tensors->rows[row].rank; ++axis) {
    const int32_t which = tensors->rows[row].axes[axis];
    FM_TRY(check_range(tensors, row, element, axis, tensor->shape[axis]));
    const int32_t extent = (int32_t)tensor->shape[axis];
    if (met[which] && extent != extents[which]) return fail_unequal_extents(tensors, row, element, axis, extent);
    met[which] = true;
    extents[which] = extent;
  }
  return FLASHMLA_OK;
}
