/* cuda.c - the scheduler on a GPU. */
#include "schedule/launch.h"

_Static_assert(FM_KERNEL_MAX_PIECES == FM_MAX_PIECES, "the device's batch-invariant schedule is the host's");

int64_t fm_divisor(int32_t d) {
  uint32_t shift = 31;
  while ((INT64_C(1) << (shift - 31)) < d) shift++;
  const uint64_t multiplier = (uint64_t)fm_ceil_div(INT64_C(1) << shift, d);
  return (int64_t)((uint64_t)shift << 32 | multiplier);
}

flashmla_status fm_load_plan(fm_gpu gpu, fm_loaded *plan) {
  return fm_load(gpu, (fm_need){.family = FM_KERNEL_PLAN}, plan);
}

flashmla_status fm_launch_plan(fm_gpu gpu, const fm_loaded *plan, const fm_work *work, const fm_tiling *tiling,
                               const fm_schedule *schedule, void *stream) {
  const fm_plan_kernel_params params = {FM_SCHEDULE_FIELDS(work, tiling, schedule),
                                        .cache_seqlens = work->lengths,
                                        .capacity = work->capacity,
                                        .cost_before = schedule->cost_before,
                                        .bands = tiling->bands,
                                        .num_splits = tiling->num_splits,
                                        .piece_units = tiling->piece_units,
                                        .whole_units = tiling->whole_units,
                                        .start_overhead = tiling->start_overhead,
                                        .split_overhead = tiling->split_overhead};
  return fm_launch(gpu, plan, 1, &params, stream);
}
