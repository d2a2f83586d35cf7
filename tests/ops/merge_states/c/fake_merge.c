/* fake_merge.c - see fake_merge.h. */
#include "fake_merge.h"

fm_merge fake_merge;
fm_state fake_states[FM_MAX_CPU_STATES];

static flashmla_status prepare_merge(fm_call *call, void *state) {
  return fake_prepare(call, &((fm_merge *)state)->kernel.handle);
}

static flashmla_status merge(fm_call *call, void *state) {
  fake_merge = *(const fm_merge *)state;
  const int32_t states = fake_merge.stacked ? 1 : fake_merge.num_states;
  for (int32_t i = 0; i < states; ++i) fake_states[i] = fake_merge.states[i];
  fake_merge.states = NULL; /* it ends with the call */
  return call->cuda ? fake_launched(call, fake_merge.kernel.handle, NULL, "fake_cuda_merge")
                    : fake_launched(call, fake_merge.kernel.handle, NULL, "fake_cpu_merge");
}

const fm_backend fm_merge_states_cuda = {prepare_merge, merge}, fm_merge_states_cpu = {.launch = merge};
