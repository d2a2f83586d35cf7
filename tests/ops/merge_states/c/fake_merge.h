/* fake_merge.h - stands in for the backends of merge_states, beside fake_backend.h: records what the last launch was
 * given. */
#ifndef FAKE_MERGE_H_
#define FAKE_MERGE_H_

#include "fake_backend.h"
#include "ops/merge_states/merge_states.h"

extern fm_merge fake_merge;                     /* without its states, which end with the call */
extern fm_state fake_states[FM_MAX_CPU_STATES]; /* those */

#endif /* FAKE_MERGE_H_ */
