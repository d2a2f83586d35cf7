/* Calls on tensor objects, read through the exchange table of their type or from DLPack capsules: one entry for every
 * operation.
 *
 * The entry is a Python function (METH_FASTCALL) that a binding makes of this C function, so that a call from Python
 * crosses the border once. It holds the interpreter's lock while it reads the objects and gives it up while the
 * operation runs: a CPU operation computes for long, and a launch may wait for room in the driver's queue, perhaps for
 * a host function that needs the lock. All state lies on the stack, so threads and nested calls do not meet.
 *
 * Source of the table: https://github.com/dmlc/dlpack, include/dlpack/dlpack.h, DLPackExchangeAPI (1.3).
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "observer/observer.h"

/* Params may be those of a newer header: longer than this library knows them. */
enum { FEW_TENSORS = 14 /* lie in the call itself */, MAX_RANK = 8, MAX_PARAMS_BYTES = 512, MAX_CONDITIONS = 32 };

/* What a step answers besides FLASHMLA_OK and the library's statuses. */
enum { UNUSUAL = FLASHMLA_EXCHANGE_UNUSUAL, RAISED = -2, NO_SCRATCH = -3 };

/* An object as a tensor. Copies: the objects' own extents may change while the lock is given up. */
typedef struct taken {
  DLTensor tensor;
  int64_t shape[MAX_RANK], strides[MAX_RANK];
} taken;

typedef struct call {
  const flashmla_exchange *how;
  const DLPackExchangeAPI *table;
  void *const *objects;
  int32_t num_tensors;
  bool has_scratch;
  uint32_t hold;         /* bits of the conditions that need not be looked at for each tensor */
  int64_t scratch_bytes; /* needed, and not to be had here */
  void *result;
  const DLTensor *model; /* the first tensor: its device is the call's */
  /* One of each for every object: those below, or memory of its own behind `taken`. */
  taken *taken;
  const DLTensor **lists;
  taken few[FEW_TENSORS];
  const DLTensor *few_lists[FEW_TENSORS];
  _Alignas(16) unsigned char params[MAX_PARAMS_BYTES];
} call;

static flashmla_host host;

flashmla_status flashmla_exchange_host(const flashmla_host *functions) {
  if (functions == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "functions is NULL; the struct is required");
  if (functions->struct_size != sizeof host)
    return fm_fail(FLASHMLA_ERROR_STRUCT_SIZE, "functions.struct_size is %llu; it must be %zu",
                   (unsigned long long)functions->struct_size, sizeof host);
  host = *functions;
  return FLASHMLA_OK;
}

static int is_value(void *found, const void *value) {
  if (!found) return RAISED;
  host.release(found);
  return found == value ? FLASHMLA_OK : UNUSUAL;
}

static int check_condition(const flashmla_exchange_condition *condition, void *tensor) {
  void *found = condition->function ? host.call(condition->function, &tensor, tensor != NULL, NULL)
                                    : host.attribute(tensor ? tensor : condition->object, condition->attribute);
  return is_value(found, condition->value);
}

/* The conditions on the call. Finds out which of those on tensors hold for all. */
static int check_call(call *c) {
  const flashmla_exchange *how = c->how;
  c->hold = 0;
  if (how->num_conditions > MAX_CONDITIONS) return UNUSUAL;
  for (int32_t i = 0; i < how->num_conditions; ++i) {
    const flashmla_exchange_condition *condition = &how->conditions[i];
    int status = UNUSUAL;
    if (condition->unless) status = is_value(host.call(condition->unless, NULL, 0, NULL), condition->value);
    if (status == UNUSUAL && !condition->of_tensors) status = check_condition(condition, NULL);
    if (status == FLASHMLA_OK) c->hold |= 1U << i;
    if (status == RAISED || (status == UNUSUAL && !condition->of_tensors)) return status;
  }
  return FLASHMLA_OK;
}

static int check_tensor(const call *c, void *object) {
  for (int32_t i = 0; i < c->how->num_conditions; ++i) {
    if (c->hold & 1U << i) continue;
    const int status = check_condition(&c->how->conditions[i], object);
    if (status) return status;
  }
  return FLASHMLA_OK;
}

static int read_object(const call *c, void *object, DLTensor *tensor) {
  const flashmla_exchange *how = c->how;
  void *type = host.type(object);
  host.release(type); /* the object keeps it alive */
  if (type != how->type) return UNUSUAL;
  return c->table->dltensor_from_py_object_no_sync(object, tensor) ? RAISED : FLASHMLA_OK;
}

static int read_capsule(void *capsule, bool written, DLTensor *tensor) {
  const DLManagedTensorVersioned *managed = host.capsule(capsule, "dltensor_versioned");
  if (!managed) return RAISED;
  if (managed->version.major != DLPACK_MAJOR_VERSION || (written && managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY))
    return UNUSUAL;
  *tensor = managed->dl_tensor;
  return FLASHMLA_OK;
}

/* The object as the call's next tensor. */
static int export_tensor(call *c, void *object, bool written, DLTensor **exported) {
  taken *next = &c->taken[c->num_tensors++];
  DLTensor *tensor = &next->tensor;
  const int status = c->table ? read_object(c, object, tensor) : read_capsule(object, written, tensor);
  if (status) return status;
  if (tensor->ndim > MAX_RANK || (tensor->ndim > 0 && !tensor->shape)) return UNUSUAL;
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

static void *field(call *c, uint32_t offset) { return c->params + offset; }

static int take_tensor(call *c, void *object, bool written, const DLTensor **filled) {
  if (object == host.nothing) return FLASHMLA_OK;
  DLTensor *tensor;
  const int status = export_tensor(c, object, written, &tensor);
  if (status) return status;
  if (*filled && !alike(tensor, *filled)) return UNUSUAL;
  if (!c->model) c->model = tensor;
  *filled = tensor;
  return FLASHMLA_OK;
}

/* A caller's scratch: contiguous memory on the call's device. Whether it suffices, the operation says. */
static int take_scratch(call *c, void *object, uint32_t offset) {
  void **memory = field(c, offset);
  uint64_t *bytes = field(c, offset + sizeof(void *));
  c->has_scratch = object != host.nothing || *memory;
  if (object == host.nothing) return FLASHMLA_OK;
  DLTensor *tensor;
  const int status = export_tensor(c, object, true, &tensor);
  if (status) return status;
  uint64_t count = 1; /* unsigned: nobody has looked at the extents yet */
  for (int32_t axis = tensor->ndim; axis-- > 0;) {
    if (tensor->shape[axis] > 1 && (uint64_t)tensor->strides[axis] != count) return UNUSUAL;
    count *= (uint64_t)tensor->shape[axis];
  }
  const uint64_t size = count * tensor->dtype.bits * tensor->dtype.lanes / 8;
  if (c->model && !same_device(tensor->device, c->model->device)) return UNUSUAL;
  uintptr_t address;
  if (__builtin_add_overflow((uintptr_t)tensor->data, tensor->byte_offset, &address)) return UNUSUAL;
  *memory = (void *)address;
  *bytes = size;
  return FLASHMLA_OK;
}

/* Fills params from the objects, as they are now. */
static int take_objects(call *c) {
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
        status = take_tensor(c, *next++, false, field(c, argument.offset));
        break;
      case FLASHMLA_EXCHANGE_OUTPUT:
        status = take_tensor(c, *next++, true, field(c, argument.offset));
        break;
      case FLASHMLA_EXCHANGE_LIST: {
        const DLTensor *const **list = field(c, argument.offset);
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
        if (*next != host.nothing) *(void **)field(c, argument.offset) = host.address(*next);
        ++next;
        break;
      case FLASHMLA_EXCHANGE_RESULT:
        c->result = host.address(*next++);
        break;
      default:
        return UNUSUAL;
    }
    if (status) return status;
  }
  return c->model ? FLASHMLA_OK : UNUSUAL;
}

static void ignore_error(void *context, const char *kind, const char *message) {
  (void)context;
  (void)kind;
  (void)message;
}

/* Scratch from the framework's allocator, on its current stream of the device. The allocator may run anything, even
 * code that changes the tensors, so they are read again behind it. Capsules come without an allocator. */
static int make_scratch(call *c, DLManagedTensorVersioned **made) {
  uint64_t bytes = 0;
  fm_try_calls(true);
  int status = c->how->size(c->params, &bytes);
  fm_try_calls(false);
  if (status || bytes == 0) return status;
  if (bytes > INT64_MAX) return UNUSUAL;
  if (!c->table) {
    c->scratch_bytes = (int64_t)bytes;
    return NO_SCRATCH;
  }
  int64_t extent = (int64_t)bytes;
  DLTensor prototype = {.device = c->model->device, .ndim = 1, .dtype = {kDLUInt, 8, 1}, .shape = &extent};
  if (c->table->managed_tensor_allocator(&prototype, made, NULL, ignore_error) || !*made) {
    *made = NULL;
    return UNUSUAL;
  }
  status = take_objects(c);
  if (status) return status;
  *(void **)field(c, c->how->scratch_offset) = (char *)(*made)->dl_tensor.data + (*made)->dl_tensor.byte_offset;
  *(uint64_t *)field(c, c->how->scratch_offset + sizeof(void *)) = bytes;
  return FLASHMLA_OK;
}

static int run(call *c) {
  const flashmla_exchange *how = c->how;
  const DLDevice device = c->model->device;
  if (c->table && device.device_type != kDLCPU) {
    void **stream = field(c, how->stream_offset);
    if (c->table->current_work_stream(device.device_type, device.device_id, stream)) return RAISED;
  }
  void *const lock = host.unlock();
  fm_try_calls(true);
  int status;
  if (how->run_prepared)
    status = how->run_prepared(how->prepared, c->params);
  else if (how->run_prepared_into)
    status = how->run_prepared_into(how->prepared, c->params, c->result);
  else
    status = how->run_into ? how->run_into(c->params, c->result) : how->run(c->params);
  fm_try_calls(false);
  host.lock(lock);
  return status;
}

/* Room for a tensor of each object; false: there is none. */
static bool make_room(call *c, int32_t objects) {
  c->taken = c->few;
  c->lists = c->few_lists;
  if (objects <= FEW_TENSORS) return true;
  c->taken = malloc((sizeof *c->taken + sizeof *c->lists) * (size_t)objects);
  c->lists = (const DLTensor **)(void *)(c->taken + objects);
  return c->taken != NULL;
}

void *flashmla_exchange_call(void *self, void *const *objects, intptr_t count) {
  const flashmla_exchange *how = host.address(self);
  if (how->struct_size != sizeof *how || count != how->num_objects || how->params_size > MAX_PARAMS_BYTES)
    return host.integer(UNUSUAL);
  call c;
  if (!make_room(&c, how->num_objects)) return host.integer(UNUSUAL);
  c.how = how;
  c.table = how->table;
  c.objects = objects;
  c.has_scratch = false;
  c.result = NULL;
  DLManagedTensorVersioned *made = NULL;
  int status = check_call(&c);
  if (!status) status = take_objects(&c);
  if (!status && how->size && !c.has_scratch) status = make_scratch(&c, &made);
  if (!status) status = run(&c);
  void *kept = NULL;
  if (made) {
    if (status || !how->keep_scratch)
      made->deleter(made);
    else if (c.table->managed_tensor_to_py_object_no_sync(made, &kept))
      status = RAISED;
  }
  if (c.taken != c.few) free(c.taken);
  if (status == RAISED) return NULL;
  if (status == NO_SCRATCH) return host.integer(UNUSUAL - c.scratch_bytes);
  return kept ? kept : host.integer(status);
}
