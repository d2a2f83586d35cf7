/* cuda_times.h - what the launches of a call take on a device: events on its stream before and behind them, which are
 * read later, without waiting. */
#ifndef FLASHMLA_OBSERVER_CUDA_TIMES_H_
#define FLASHMLA_OBSERVER_CUDA_TIMES_H_

#include "observer/facts.h"
#include "observer/observer.h"

void fm_time_launches(fm_observation *seen, const fm_call *call, const void *state);
void fm_launches_timed(fm_observation *seen);
/* Behind fm_time_launches, at the end of the call. `recorded`: it is call number `number` of the profile. */
void fm_end_times(const fm_observation *seen, bool recorded, uint64_t number);
/* Hands what is known by now to fm_time_found. */
void fm_find_times(void);

/* profile.c: what the profile wants, and the lock of both files, which is held where a device time is found. */
typedef struct fm_profile_wants {
  uint32_t profile;         /* its number */
  int32_t pending, lengths; /* events of a device; lengths of a call that are copied, 0: none */
  uint64_t calls;           /* that were recorded */
} fm_profile_wants;
void fm_lock_profile(fm_profile_wants *wants);
void fm_unlock_profile(void);
void fm_time_found(uint64_t number, int32_t device_time, int64_t begin_ns, int64_t ns, const int32_t *lengths);

#endif /* FLASHMLA_OBSERVER_CUDA_TIMES_H_ */
