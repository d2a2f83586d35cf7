/* observer.c - see observer.h. */
#include "observer/observer.h"

#include <time.h>

#include "observer/cuda_times.h"
#include "observer/loads.h"

_Atomic(uint32_t) fm_observers;
static _Thread_local bool trying;
static _Thread_local uint32_t loads;

void fm_note_load(void) { ++loads; }
uint32_t fm_loads(void) { return loads; }

int64_t fm_clock_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

int32_t fm_number_of(const fm_operation *operation) {
  int32_t number = 0;
  while (number < FM_MOST_OPERATIONS - 1 && fm_operation_at(number) != operation) ++number;
  return number;
}

void fm_set_trying(bool trying_now) { trying = trying_now; }

bool fm_is_made_again(flashmla_status status) {
  return trying && status < FLASHMLA_ERROR_NO_DRIVER && status != FLASHMLA_ERROR_TENSOR_VALUE;
}

void fm_observation_begins(fm_observation *seen) {
  seen->pair = -1;
  seen->device = NULL;
  seen->pushed = seen->has_lengths = seen->ranged = false;
  seen->device_time = FLASHMLA_TIME_NONE;
  seen->loads = fm_loads();
  seen->begin_ns = fm_clock_ns();
}

flashmla_status fm_observe_launch(fm_observation *seen, const fm_call *call, const void *state) {
  if ((seen->by & FM_FAILING) != 0) FM_TRY(fm_fail_on_request(call));
  if ((seen->by & FM_RANGING) != 0) fm_begin_range(seen, call);
  if ((seen->by & FM_PROFILING) != 0 && call->cuda) fm_time_launches(seen, call, state);
  return FLASHMLA_OK;
}

void fm_observe_launched(fm_observation *seen, const fm_call *call) {
  if ((seen->by & FM_PROFILING) != 0 && call->cuda) fm_launches_timed(seen);
  if ((seen->by & FM_RANGING) != 0) fm_end_range(seen);
}

void fm_observe_end(const fm_observation *seen, const fm_operation *operation, const fm_call *call, const void *state,
                    flashmla_status status) {
  const bool done = status == FLASHMLA_OK;
  if ((seen->by & FM_PROFILING) != 0 && done && !call->empty)
    fm_profile_call(seen, call, state);
  else if ((seen->by & FM_PROFILING) != 0)
    fm_end_times(seen, false, 0);
  if ((seen->by & FM_COUNTING) != 0) fm_count_call(seen, operation, done && call->cuda, status);
}

void fm_observe_failure(const fm_operation *operation, flashmla_status status) {
  fm_observation seen;
  fm_observe_call(&seen);
  if ((seen.by & FM_COUNTING) != 0) fm_count_call(&seen, operation, false, status);
}
