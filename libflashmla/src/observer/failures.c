/* failures.c - failures on request: a host's tests of what it does when a machine fails. */
#include <pthread.h>
#include <string.h>

#include "observer/observer.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  const fm_operation *operation; /* NULL: none is to fail */
  flashmla_status status;
  int32_t after;
} next;

flashmla_status fm_fail_on_request(const fm_call *call) {
  flashmla_status status = FLASHMLA_OK;
  pthread_mutex_lock(&lock);
  if (next.operation == call->operation && next.after-- == 0) {
    status = next.status;
    if (fm_is_made_again(status)) {
      next.after = 0; /* the call that is made again meets it too */
    } else {
      next.operation = NULL;
      fm_observe(FM_FAILING, false);
    }
  }
  pthread_mutex_unlock(&lock);
  return status == FLASHMLA_OK ? status
                               : fm_fail(status, "%s fails on request (flashmla_fail_next)", call->operation->name);
}

static const fm_operation *named(const char *name) {
  for (int32_t i = 0; fm_operation_at(i) != NULL; ++i)
    if (strcmp(fm_operation_at(i)->name, name) == 0) return fm_operation_at(i);
  return NULL;
}

flashmla_status flashmla_fail_next(const char *operation, flashmla_status status, int32_t after) {
  const fm_operation *found = operation != NULL ? named(operation) : NULL;
  if (operation == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "operation is NULL; the name is required");
  if (found == NULL)
    return fm_fail(FLASHMLA_ERROR_VALUE, "operation is \"%.64s\"; it must be \"dense_decode\" or another entry point",
                   operation);
  const bool machine = status >= FLASHMLA_ERROR_UNSUPPORTED && status < FLASHMLA_ERROR_OUT_OF_BLOCKS;
  if (!machine || strcmp(flashmla_status_string(status), "unknown status") == 0)
    return fm_fail(FLASHMLA_ERROR_VALUE, "status is %d; it must be one of 2xx or 3xx", (int)status);
  if (after < 0) return fm_fail(FLASHMLA_ERROR_VALUE, "after is %d; it must be >= 0", after);
  pthread_mutex_lock(&lock);
  next.operation = found;
  next.status = status;
  next.after = after;
  fm_observe(FM_FAILING, true);
  pthread_mutex_unlock(&lock);
  return FLASHMLA_OK;
}
