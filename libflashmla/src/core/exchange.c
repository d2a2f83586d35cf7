/* exchange.c - calls on tensor objects, read through the exchange table of their type or from DLPack capsules
 * (exchange_objects.c): one entry for every operation.
 *
 * The entry is a Python function (METH_FASTCALL) that a binding makes of this C function, so that a call from Python
 * crosses the border once. It holds the interpreter's lock while it reads the objects and gives it up while the
 * operation runs: a CPU operation computes for long, and a launch may wait for room in the driver's queue, perhaps for
 * a host function that needs the lock. All state lies on the stack, so threads and nested calls do not meet.
 *
 * Source of the table: https://github.com/dmlc/dlpack, include/dlpack/dlpack.h, DLPackExchangeAPI (1.3).
 */
#include "core/exchange.h"

#include <stdlib.h>

#include "core/error.h"
#include "observer/observer.h"

flashmla_host fm_host;

flashmla_status flashmla_exchange_host(const flashmla_host *functions) {
  if (functions == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "functions is NULL; the struct is required");
  if (functions->struct_size != sizeof fm_host)
    return fm_fail(FLASHMLA_ERROR_STRUCT_SIZE, "functions.struct_size is %llu; it must be %zu",
                   (unsigned long long)functions->struct_size, sizeof fm_host);
  fm_host = *functions;
  return FLASHMLA_OK;
}

static void ignore_error(void *context, const char *kind, const char *message) {
  (void)context;
  (void)kind;
  (void)message;
}

/* Scratch from the framework's allocator, on its current stream of the device. The allocator may run anything, even
 * code that changes the tensors, so they are read again behind it. Capsules come without an allocator. */
static int make_scratch(fm_object_call *c, DLManagedTensorVersioned **made) {
  uint64_t bytes = 0;
  fm_try_calls(true);
  int status = c->how->size(c->params, &bytes);
  fm_try_calls(false);
  if (status || bytes == 0) return status;
  if (bytes > INT64_MAX) return FM_UNUSUAL;
  if (!c->table) {
    c->scratch_bytes = (int64_t)bytes;
    return FM_NO_SCRATCH;
  }
  int64_t extent = (int64_t)bytes;
  DLTensor prototype = {.device = c->model->device, .ndim = 1, .dtype = {kDLUInt, 8, 1}, .shape = &extent};
  if (c->table->managed_tensor_allocator(&prototype, made, NULL, ignore_error) || !*made) {
    *made = NULL;
    return FM_UNUSUAL;
  }
  status = fm_take_objects(c);
  if (status) return status;
  *(void **)fm_param_of(c, c->how->scratch_offset) = (char *)(*made)->dl_tensor.data + (*made)->dl_tensor.byte_offset;
  *(uint64_t *)fm_param_of(c, c->how->scratch_offset + sizeof(void *)) = bytes;
  return FLASHMLA_OK;
}

static int run(fm_object_call *c) {
  const flashmla_exchange *how = c->how;
  const DLDevice device = c->model->device;
  if (c->table && device.device_type != kDLCPU) {
    void **stream = fm_param_of(c, how->stream_offset);
    if (c->table->current_work_stream(device.device_type, device.device_id, stream)) return FM_RAISED;
  }
  void *const lock = fm_host.unlock();
  fm_try_calls(true);
  int status;
  if (how->run_prepared)
    status = how->run_prepared(how->prepared, c->params);
  else if (how->run_prepared_into)
    status = how->run_prepared_into(how->prepared, c->params, c->result);
  else
    status = how->run_into ? how->run_into(c->params, c->result) : how->run(c->params);
  fm_try_calls(false);
  fm_host.lock(lock);
  return status;
}

/* Room for a tensor of each object; false: there is none. */
static bool make_room(fm_object_call *c, int32_t objects) {
  c->taken = c->few;
  c->lists = c->few_lists;
  if (objects <= FM_FEW_TENSORS) return true;
  c->taken = malloc((sizeof *c->taken + sizeof *c->lists) * (size_t)objects);
  c->lists = (const DLTensor **)(void *)(c->taken + objects);
  return c->taken != NULL;
}

void *flashmla_exchange_call(void *self, void *const *objects, intptr_t count) {
  const flashmla_exchange *how = fm_host.address(self);
  if (how->struct_size != sizeof *how || count != how->num_objects || how->params_size > FM_MAX_GIVEN_BYTES)
    return fm_host.integer(FM_UNUSUAL);
  fm_object_call c;
  if (!make_room(&c, how->num_objects)) return fm_host.integer(FM_UNUSUAL);
  c.how = how;
  c.table = how->table;
  c.objects = objects;
  c.has_scratch = false;
  c.result = NULL;
  DLManagedTensorVersioned *made = NULL;
  int status = fm_check_conditions(&c);
  if (!status) status = fm_take_objects(&c);
  if (!status && how->size && !c.has_scratch) status = make_scratch(&c, &made);
  if (!status) status = run(&c);
  void *kept = NULL;
  if (made) {
    if (status || !how->keep_scratch)
      made->deleter(made);
    else if (c.table->managed_tensor_to_py_object_no_sync(made, &kept))
      status = FM_RAISED;
  }
  if (c.taken != c.few) free(c.taken);
  if (status == FM_RAISED) return NULL;
  if (status == FM_NO_SCRATCH) return fm_host.integer(FM_UNUSUAL - c.scratch_bytes);
  return kept ? kept : fm_host.integer(status);
}
