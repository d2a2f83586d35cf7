/* operation.c - the path that every call of every operation takes. */
#include "core/operation.h"

#include <string.h>

#include "core/calling_thread.h"
#include "observer/observer.h"

enum { SCRATCH_ALIGNMENT = 16 /* bytes */ };

/* Begin and end of the section that FM_REGISTER fills; the linker makes them. */
extern const fm_operation *const __start_fm_operations[] FM_SECTION_EDGE;
extern const fm_operation *const __stop_fm_operations[] FM_SECTION_EDGE;

const fm_operation *fm_operation_at(int32_t i) {
  return i < __stop_fm_operations - __start_fm_operations ? __start_fm_operations[i] : NULL;
}

static flashmla_status check_flags(const fm_operation *operation, const void *params) {
  uint32_t flags; /* behind struct_size in every params struct */
  memcpy(&flags, (const char *)params + sizeof(uint32_t), sizeof flags);
  if ((flags & ~(operation->flags | FLASHMLA_PYTHON_NAMES)) == 0) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_FLAGS, "params.flags is 0x%x; only bits of 0x%x are known", flags,
                 operation->flags | FLASHMLA_PYTHON_NAMES);
}

static flashmla_status check_threads(const fm_operation *operation, const void *params) {
  int32_t threads;
  if (operation->threads_offset == 0) return FLASHMLA_OK;
  memcpy(&threads, (const char *)params + operation->threads_offset, sizeof threads);
  if (threads >= 0) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}num_threads is %d; it must be >= 0", threads);
}

static flashmla_status check_memory(fm_call *call) {
  const fm_tensors *tensors = &call->tensors;
  for (int32_t row = 0; row < tensors->count; ++row)
    if (!tensors->rows[row].shape_only && !tensors->rows[row].listed)
      FM_TRY(fm_view_tensor(tensors, row, 0, call->empty, &call->views[row]));
  return FLASHMLA_OK;
}

flashmla_status fm_check_call(const fm_operation *operation, const void *params, bool sizes_only, fm_call *call,
                              void *state) {
  call->operation = operation;
  call->form = (fm_form){0};
  call->empty = call->again = false;
  call->sizes_only = sizes_only;
  call->scratch_bytes = 0;
  memset(state, 0, operation->state_size);
  FM_TRY(fm_read_params(params, &operation->params, call->params));
  FM_TRY(check_flags(operation, call->params));
  if (operation->read_form != NULL) FM_TRY(operation->read_form(call->params, &call->form));
  fm_tensors *tensors = &call->tensors;
  fm_arguments_in(call->form, operation->arguments, operation->num_arguments, call->rows);
  *tensors = (fm_tensors){call->rows, operation->num_arguments, operation->axes, call->form.listed, {NULL}};
  fm_read_tensors(call->params, tensors);
  FM_TRY(fm_check_presence(tensors));
  FM_TRY(fm_check_dtypes(tensors));
  FM_TRY(fm_check_devices(tensors));
  FM_TRY(fm_check_extents(tensors, call->extents));
  const DLDevice device = fm_tensor_at(tensors, 0, 0)->device;
  call->cuda = (int32_t)device.device_type == kDLCUDA;
  call->device_id = device.device_id;
  FM_TRY(operation->check_shapes(call, state));
  if (!sizes_only) {
    FM_TRY(check_memory(call));
    FM_TRY(check_threads(operation, call->params));
    if (operation->check_values != NULL) FM_TRY(operation->check_values(call, state));
  }
  return operation->lay_out != NULL ? operation->lay_out(call, state) : FLASHMLA_OK;
}

flashmla_status fm_check_scratch(const fm_call *call) {
  const fm_operation *operation = call->operation;
  const uint64_t needed = call->scratch_bytes;
  if (needed == 0) return FLASHMLA_OK;
  const char *name = operation->scratch;
  const void *buffer;
  uint64_t size;
  memcpy(&buffer, call->params + operation->scratch_offset, sizeof buffer);
  memcpy(&size, call->params + operation->scratch_size_offset, sizeof size);
  if (buffer == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "{params.|}%s is {NULL|empty}; %llu bytes are needed", name,
                   (unsigned long long)needed);
  if ((uintptr_t)buffer % SCRATCH_ALIGNMENT != 0)
    return fm_fail(FLASHMLA_ERROR_ALIGNMENT, "{params.|}%s is {|at address }%p; it must be a multiple of %d bytes",
                   name, buffer, SCRATCH_ALIGNMENT);
  if ((uintptr_t)buffer > UINTPTR_MAX - needed)
    return fm_fail(FLASHMLA_ERROR_OVERFLOW,
                   "{params.|}%s is {|at address }%p; its %llu bytes must end below address 2^64", name, buffer,
                   (unsigned long long)needed);
  if (size < needed)
    return fm_fail(FLASHMLA_ERROR_WORKSPACE_TOO_SMALL,
                   "{params.|}%s{_size is| has} %llu{| bytes}; it must {be|have} at least %llu", name,
                   (unsigned long long)size, (unsigned long long)needed);
  return FLASHMLA_OK;
}

bool fm_has_room(const fm_call *call) {
  uint64_t size;
  memcpy(&size, call->params + call->operation->scratch_size_offset, sizeof size);
  return size >= call->scratch_bytes;
}

static void release(const fm_operation *operation, void *state) {
  if (operation->release != NULL) operation->release(state);
}

flashmla_status fm_query_size(const fm_operation *operation, const void *params, void *state, uint64_t *bytes) {
  if (bytes == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "bytes is NULL; the result goes there");
  const fm_calling_thread thread = fm_enter_call();
  fm_call call;
  const flashmla_status status = fm_check_call(operation, params, true, &call, state);
  if (status == FLASHMLA_OK)
    *bytes = call.scratch_bytes;
  else
    fm_observe_failure(operation, status);
  release(operation, state);
  fm_leave_call(thread);
  return status;
}

flashmla_status fm_finish(fm_call *call, void *state) {
  if (call->empty) fm_set_last_kernel("");
  return call->operation->finish != NULL ? call->operation->finish(call, state) : FLASHMLA_OK;
}

flashmla_status fm_launch_observed(fm_call *call, void *state, fm_observation *seen) {
  const fm_backend *backend = fm_backend_of(call);
  if (seen->by == 0) return backend->launch(call, state);
  if (!call->again) fm_measure_tensors(call);
  FM_TRY(fm_observe_launch(seen, call, state));
  const flashmla_status status = backend->launch(call, state);
  fm_observe_launched(seen, call);
  return status;
}

static flashmla_status launch(fm_call *call, void *state, fm_observation *seen) {
  const fm_backend *backend = fm_backend_of(call);
  FM_TRY(call->operation->bind(call, state));
  if (backend->prepare != NULL) FM_TRY(backend->prepare(call, state));
  return fm_launch_observed(call, state, seen);
}

flashmla_status fm_run(const fm_operation *operation, const void *params, void *state, void *result) {
  const fm_calling_thread thread = fm_enter_call();
  fm_observation seen;
  fm_observe_call(&seen);
  fm_call call;
  flashmla_status status = fm_check_call(operation, params, false, &call, state);
  call.result = result;
  if (status == FLASHMLA_OK) status = fm_check_scratch(&call);
  if (status == FLASHMLA_OK && !call.empty) status = launch(&call, state, &seen);
  if (status == FLASHMLA_OK) status = fm_finish(&call, state);
  if (seen.by != 0) fm_observe_end(&seen, operation, &call, state, status);
  release(operation, state);
  fm_leave_call(thread);
  return status;
}
