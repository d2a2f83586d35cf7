/* observer.h - who looks on while calls are made: the profiler, the counters of flashmla_metrics, failures on request,
 * NVTX ranges. Where nobody does a call pays a load and a branch. */
#ifndef FLASHMLA_OBSERVER_OBSERVER_H_
#define FLASHMLA_OBSERVER_OBSERVER_H_

#include <stdatomic.h>

#include "core/operation.h"

enum { FM_PROFILING = 1, FM_COUNTING = 2, FM_FAILING = 4, FM_RANGING = 8 };
extern _Atomic(uint32_t) fm_observers;
static inline void fm_observe(uint32_t who, bool on) {
  if (on)
    atomic_fetch_or(&fm_observers, who);
  else
    atomic_fetch_and(&fm_observers, ~who);
}

/* Of one call. Fields behind `by` hold values where that is not 0. */
typedef struct fm_observation {
  uint32_t by;
  uint32_t loads; /* kernels that this thread had loaded */
  int64_t begin_ns;
  bool ranged; /* an NVTX range is open */
  /* cuda_times.h */
  const struct fm_device *device; /* whose context is current; NULL: none was asked for */
  void *stream;
  int32_t pair;        /* events around the launches; -1: none */
  void *end;           /* that of them behind the launches */
  int32_t device_time; /* flashmla_device_time */
  uint32_t profile;    /* number of the profile that the events were taken for */
  bool pushed;         /* the context */
  bool has_lengths;    /* they are copied in front of the launches */
} fm_observation;

void fm_observation_begins(fm_observation *seen);
static inline void fm_observe_call(fm_observation *seen) {
  seen->by = atomic_load_explicit(&fm_observers, memory_order_relaxed);
  if (seen->by != 0) fm_observation_begins(seen);
}
/* In front of the launches of a call that is checked and bound. A failure is one on request: nothing is launched. */
flashmla_status fm_observe_launch(fm_observation *seen, const fm_call *call, const void *state);
/* The launches of a call that is bound and prepared, with whoever looks on (core/operation.c). */
flashmla_status fm_launch_observed(fm_call *call, void *state, fm_observation *seen);
/* Behind them, whatever became of them. */
void fm_observe_launched(fm_observation *seen, const fm_call *call);
/* The end of a call; `call` and `state` are looked at where it succeeded. */
void fm_observe_end(const fm_observation *seen, const fm_operation *operation, const fm_call *call, const void *state,
                    flashmla_status status);
/* A failure of a size query or a preparation. */
void fm_observe_failure(const fm_operation *operation, flashmla_status status);

/* The calls of this thread are tried: one that is refused is made again another way, and is not counted. */
void fm_set_trying(bool trying);
static inline void fm_try_calls(bool trying) {
  if (atomic_load_explicit(&fm_observers, memory_order_relaxed) != 0) fm_set_trying(trying);
}
/* Whether a failure with that status is made again. */
bool fm_is_made_again(flashmla_status status);

int64_t fm_clock_ns(void);
/* fm_operation_at of this number. */
int32_t fm_number_of(const fm_operation *operation);
enum { FM_MOST_OPERATIONS = 32 };

/* profile.c, counters.c, failures.c, ranges.c */
void fm_profile_call(const fm_observation *seen, const fm_call *call, const void *state);
void fm_count_call(const fm_observation *seen, const fm_operation *operation, bool cuda, flashmla_status status);
flashmla_status fm_fail_on_request(const fm_call *call);
void fm_begin_range(fm_observation *seen, const fm_call *call);
void fm_end_range(fm_observation *seen);

#endif /* FLASHMLA_OBSERVER_OBSERVER_H_ */
