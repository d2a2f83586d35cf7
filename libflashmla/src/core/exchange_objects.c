/* exchange_objects.c - the objects of a call as the tensors, addresses and scratch of its params. */
#include <string.h>

#include "core/exchange.h"

enum { MAX_CONDITIONS = 32 };

static int is_value(void *found, const void *value) {
  if (!found) return FM_RAISED;
  fm_host.release(found);
  return found == value ? FLASHMLA_OK : FM_UNUSUAL;
}

static int check_condition(const flashmla_exchange_condition *condition, void *tensor) {
  void *found = condition->function ? fm_host.call(condition->function, &tensor, tensor != NULL, NULL)
                                    : fm_host.attribute(tensor ? tensor : condition->object, condition->attribute);
  return is_value(found, condition->value);
}

int fm_check_conditions(fm_object_call *c) {
  const flashmla_exchange *how = c->how;
  c->hold = 0;
  if (how->num_conditions > MAX_CONDITIONS) return FM_UNUSUAL;
  for (int32_t i = 0; i < how->num_conditions; ++i) {
    const flashmla_exchange_condition *condition = &how->conditions[i];
    int status = FM_UNUSUAL;
    if (condition->unless) status = is_value(fm_host.call(condition->unless, NULL, 0, NULL), condition->value);
    if (status == FM_UNUSUAL && !condition->of_tensors) status = check_condition(condition, NULL);
    if (status == FLASHMLA_OK) c->hold |= 1U << i;
    if (status == FM_RAISED || (status == FM_UNUSUAL && !condition->of_tensors)) return status;
  }
  return FLASHMLA_OK;
}

static int check_tensor(const fm_object_call *c, void *object) {
  for (int32_t i = 0; i < c->how->num_conditions; ++i) {
    if (c->hold & 1U << i) continue;
    const int status = check_condition(&c->how->conditions[i], object);
    if (status) return status;
  }
  return FLASHMLA_OK;
}

static int read_object(const fm_object_call *c, void *object, DLTensor *tensor) {
  const flashmla_exchange *how = c->how;
  void *type = fm_host.type(object);
  fm_host.release(type); /* the object keeps it alive */
  if (type != how->type) return FM_UNUSUAL;
  return c->table->dltensor_from_py_object_no_sync(object, tensor) ? FM_RAISED : FLASHMLA_OK;
}

static int read_capsule(void *capsule, bool written, DLTensor *tensor) {
  const DLManagedTensorVersioned *managed = fm_host.capsule(capsule, "dltensor_versioned");
  if (!managed) return FM_RAISED;
  if (managed->version.major != DLPACK_MAJOR_VERSION || (written && managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY))
    return FM_UNUSUAL;
  *tensor = managed->dl_tensor;
  return FLASHMLA_OK;
}

/* The object as the call's next tensor. */
static int export_tensor(fm_object_call *c, void *object, bool written, DLTensor **exported) {
  fm_taken *next = &c->taken[c->num_tensors++];
  DLTensor *tensor = &next->tensor;
  const int status = c->table ? read_object(c, object, tensor) : read_capsule(object, written, tensor);
  if (status) return status;
  if (tensor->ndim > FM_MAX_OBJECT_RANK || (tensor->ndim > 0 && !tensor->shape)) return FM_UNUSUAL;
  uint64_t compact = 1; /* unsigned: nobody has looked at the extents yet */
  for (int32_t axis = tensor->ndim; axis-- > 0;) {
    next->shape[axis] = tensor->shape[axis];
    next->strides[axis] = tensor->strides ? tensor->strides[axis] : (int64_t)compact;
    compact *= (uint64_t)tensor->shape[axis];
  }
  tensor->shape = next->shape;
  tensor->strides = next->strides;
  *exported = tensor;
  /* Now that extents are copied: a method may give up the lock. */
  const bool integers = tensor->dtype.code == kDLInt || tensor->dtype.code == kDLUInt;
  return c->table && !integers ? check_tensor(c, object) : FLASHMLA_OK;
}

static bool same_device(DLDevice a, DLDevice b) { return a.device_type == b.device_type && a.device_id == b.device_id; }

/* Whether a tensor may stand for another one in a prepared call; the latter's strides may be NULL. */
static bool alike(const DLTensor *a, const DLTensor *b) {
  if (a->ndim != b->ndim || !same_device(a->device, b->device)) return false;
  if (a->dtype.code != b->dtype.code || a->dtype.bits != b->dtype.bits || a->dtype.lanes != b->dtype.lanes)
    return false;
  uint64_t compact = 1;
  for (int32_t axis = a->ndim; axis-- > 0;) {
    if (a->shape[axis] != b->shape[axis]) return false;
    if (a->shape[axis] > 1 && a->strides[axis] != (b->strides ? b->strides[axis] : (int64_t)compact)) return false;
    compact *= (uint64_t)a->shape[axis];
  }
  return true;
}

static int take_tensor(fm_object_call *c, void *object, bool written, const DLTensor **filled) {
  if (object == fm_host.nothing) return FLASHMLA_OK;
  DLTensor *tensor;
  const int status = export_tensor(c, object, written, &tensor);
  if (status) return status;
  if (*filled && !alike(tensor, *filled)) return FM_UNUSUAL;
  if (!c->model) c->model = tensor;
  *filled = tensor;
  return FLASHMLA_OK;
}

/* A caller's scratch: contiguous memory on the call's device. Whether it suffices, the operation says. */
static int take_scratch(fm_object_call *c, void *object, uint32_t offset) {
  void **memory = fm_param_of(c, offset);
  uint64_t *bytes = fm_param_of(c, offset + sizeof(void *));
  c->has_scratch = object != fm_host.nothing || *memory;
  if (object == fm_host.nothing) return FLASHMLA_OK;
  DLTensor *tensor;
  const int status = export_tensor(c, object, true, &tensor);
  if (status) return status;
  uint64_t count = 1; /* unsigned: nobody has looked at the extents yet */
  for (int32_t axis = tensor->ndim; axis-- > 0;) {
    if (tensor->shape[axis] > 1 && (uint64_t)tensor->strides[axis] != count) return FM_UNUSUAL;
    count *= (uint64_t)tensor->shape[axis];
  }
  const uint64_t size = count * tensor->dtype.bits * tensor->dtype.lanes / 8;
  if (c->model && !same_device(tensor->device, c->model->device)) return FM_UNUSUAL;
  uintptr_t address;
  if (__builtin_add_overflow((uintptr_t)tensor->data, tensor->byte_offset, &address)) return FM_UNUSUAL;
  *memory = (void *)address;
  *bytes = size;
  return FLASHMLA_OK;
}

int fm_take_objects(fm_object_call *c) {
  const flashmla_exchange *how = c->how;
  memcpy(c->params, how->params, how->params_size);
  c->num_tensors = 0;
  c->model = how->model;
  void *const *next = c->objects;
  int32_t listed = 0;
  for (int32_t i = 0; i < how->num_arguments; ++i) {
    const flashmla_exchange_argument argument = how->arguments[i];
    int status = FLASHMLA_OK;
    switch (argument.kind) {
      case FLASHMLA_EXCHANGE_TENSOR:
        status = take_tensor(c, *next++, false, fm_param_of(c, argument.offset));
        break;
      case FLASHMLA_EXCHANGE_OUTPUT:
        status = take_tensor(c, *next++, true, fm_param_of(c, argument.offset));
        break;
      case FLASHMLA_EXCHANGE_LIST: {
        const DLTensor *const **list = fm_param_of(c, argument.offset);
        for (int32_t k = 0; k < argument.count && !status; ++k) {
          c->lists[listed + k] = *list ? (*list)[k] : NULL;
          status = take_tensor(c, *next++, false, &c->lists[listed + k]);
        }
        *list = c->lists + listed;
        listed += argument.count;
        break;
      }
      case FLASHMLA_EXCHANGE_SCRATCH:
        status = take_scratch(c, *next++, argument.offset);
        break;
      case FLASHMLA_EXCHANGE_ADDRESS:
        if (*next != fm_host.nothing) *(void **)fm_param_of(c, argument.offset) = fm_host.address(*next);
        ++next;
        break;
      case FLASHMLA_EXCHANGE_RESULT:
        c->result = fm_host.address(*next++);
        break;
      default:
        return FM_UNUSUAL;
    }
    if (status) return status;
  }
  return c->model ? FLASHMLA_OK : FM_UNUSUAL;
}
