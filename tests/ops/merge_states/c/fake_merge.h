/* fake_merge.h - stands in for both backends of merge_states in the program that includes it: see fake_backend.h. */
#ifndef FAKE_MERGE_H_
#define FAKE_MERGE_H_

#include "fake_backend.h"
#include "ops/merge_states/merge_states.h"

/* What the last launch was given. */
static struct {
  fm_merge merge;
  fm_state states[FM_MAX_CPU_STATES]; /* what merge.states held */
} seen;

static flashmla_status prepare(fm_call *call, void *state) {
  return fake_prepare(call, &((fm_merge *)state)->kernel.handle);
}

static flashmla_status launch(fm_call *call, void *state) {
  seen.merge = *(const fm_merge *)state;
  const int32_t states = seen.merge.stacked ? 1 : seen.merge.num_states;
  for (int32_t i = 0; i < states; ++i) seen.states[i] = seen.merge.states[i];
  seen.merge.states = NULL; /* it ends with the call */
  return call->cuda ? fake_launch(call, seen.merge.kernel.handle, &fake.cuda_others, "fake_cuda_merge")
                    : fake_launch(call, seen.merge.kernel.handle, &fake.cpu_others, "fake_cpu_merge");
}

const fm_backend fm_merge_states_cuda = {prepare, launch}, fm_merge_states_cpu = {.launch = launch};

#endif /* FAKE_MERGE_H_ */
