/* prepared.c - calls that were checked once and run with other addresses. */
#include <stdlib.h>
#include <string.h>

#include "core/calling_thread.h"
#include "core/operation.h"
#include "observer/observer.h"

enum { STATE_ALIGNMENT = 64 /* bytes: of tensor maps in it */ };

struct flashmla_prepared {
  fm_call call;
  _Alignas(STATE_ALIGNMENT) unsigned char state[]; /* of the operation */
};

static flashmla_status prepare(const fm_operation *operation, const void *params, flashmla_prepared *made) {
  fm_call *call = &made->call;
  FM_TRY(fm_check_call(operation, params, false, call, made->state));
  FM_TRY(fm_check_scratch(call));
  fm_measure_tensors(call);
  if (call->empty) return FLASHMLA_OK;
  FM_TRY(operation->bind(call, made->state));
  const fm_backend *backend = fm_backend_of(call);
  return backend->prepare != NULL ? backend->prepare(call, made->state) : FLASHMLA_OK;
}

static flashmla_status make_prepared(const fm_operation *operation, const void *params, flashmla_prepared **prepared) {
  if (prepared == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "prepared is NULL; the result goes there");
  const size_t bytes = (sizeof(flashmla_prepared) + operation->state_size + STATE_ALIGNMENT - 1) / STATE_ALIGNMENT;
  flashmla_prepared *made = aligned_alloc(STATE_ALIGNMENT, bytes * STATE_ALIGNMENT);
  if (made == NULL)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for a prepared call could not be allocated");
  const flashmla_status status = prepare(operation, params, made);
  if (status == FLASHMLA_OK)
    *prepared = made;
  else
    flashmla_prepared_free(made);
  return status;
}

flashmla_status fm_prepare(const fm_operation *operation, const void *params, flashmla_prepared **prepared) {
  const fm_calling_thread thread = fm_enter_call();
  const flashmla_status status = make_prepared(operation, params, prepared);
  if (status != FLASHMLA_OK) fm_observe_failure(operation, status);
  fm_leave_call(thread);
  return status;
}

void flashmla_prepared_free(flashmla_prepared *prepared) {
  if (prepared == NULL) return;
  if (prepared->call.operation->release != NULL) prepared->call.operation->release(prepared->state);
  free(prepared);
}

static flashmla_status check_presence(const fm_tensors *before, const fm_tensors *tensors, int32_t row) {
  const bool was = before->given[row] != NULL, is = tensors->given[row] != NULL;
  if (was == is) return FLASHMLA_OK;
  const char *name = tensors->rows[row].name;
  return is ? fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s is given; the prepared call was without it", name)
            : fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s is {NULL|None}; the prepared call was with it", name);
}

/* Of the prepared call: one without elements may have any address. */
static bool has_elements(const fm_call *call, const fm_argument *rule) {
  for (int32_t axis = 0; axis < rule->rank; ++axis)
    if (call->extents[rule->axes[axis]] == 0) return false;
  return true;
}

/* The tensors of this call, present where those of the prepared one are, into call->views; bind reads the lists. */
static flashmla_status read_addresses(const fm_call *before, fm_call *call) {
  fm_tensors *tensors = &call->tensors;
  fm_read_tensors(call->params, tensors);
  FM_TRY(fm_check_lists(tensors));
  for (int32_t row = 0; row < tensors->count; ++row) {
    const fm_argument *rule = &tensors->rows[row];
    FM_TRY(check_presence(&before->tensors, tensors, row));
    call->views[row].data = NULL;
    const bool looked_at = !rule->listed && !rule->shape_only && !call->empty && has_elements(call, rule);
    if (tensors->given[row] != NULL && looked_at)
      FM_TRY(fm_view_address(tensors, row, 0, before->views[row].reach, &call->views[row].data));
  }
  return FLASHMLA_OK;
}

/* A call with all that stays, without addresses and params. */
static void begin_again(const fm_call *before, void *result, fm_call *call) {
  call->operation = before->operation;
  call->form = before->form;
  call->tensors = before->tensors; /* whose rows are those of the prepared call */
  memcpy(call->extents, before->extents, sizeof call->extents);
  call->cuda = before->cuda;
  call->device_id = before->device_id;
  call->empty = before->empty;
  call->again = true;
  call->scratch_bytes = before->scratch_bytes;
  call->tensor_bytes = before->tensor_bytes;
  call->main_dtype = before->main_dtype;
  call->result = result;
}

static flashmla_status run_again(const fm_call *before, const void *params, fm_call *call, void *state,
                                 fm_observation *seen) {
  const fm_operation *operation = call->operation;
  FM_TRY(fm_read_params(params, &operation->params, call->params));
  FM_TRY(read_addresses(before, call));
  FM_TRY(fm_check_scratch(call));
  if (!call->empty) {
    FM_TRY(operation->bind(call, state));
    FM_TRY(fm_launch_observed(call, state, seen));
  }
  return fm_finish(call, state);
}

static flashmla_status run_prepared(const fm_operation *operation, const flashmla_prepared *prepared,
                                    const void *params, void *state, void *result) {
  if (prepared == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "prepared is NULL; flashmla_%s_prepare makes it", operation->name);
  if (prepared->call.operation != operation)
    return fm_fail(FLASHMLA_ERROR_VALUE, "prepared is a call of %s; it must be one of %s",
                   prepared->call.operation->name, operation->name);
  memcpy(state, prepared->state, operation->state_size);
  if (operation->adopt != NULL) FM_TRY(operation->adopt(state));
  fm_call call;
  begin_again(&prepared->call, result, &call);
  fm_observation seen;
  fm_observe_call(&seen);
  const flashmla_status status = run_again(&prepared->call, params, &call, state, &seen);
  if (seen.by != 0) fm_observe_end(&seen, operation, &call, state, status);
  if (operation->release != NULL) operation->release(state);
  return status;
}

flashmla_status fm_run_prepared(const fm_operation *operation, const flashmla_prepared *prepared, const void *params,
                                void *state, void *result) {
  const fm_calling_thread thread = fm_enter_call();
  const flashmla_status status = run_prepared(operation, prepared, params, state, result);
  fm_leave_call(thread);
  return status;
}
