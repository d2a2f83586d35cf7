/* cuda.c - the scheduler on a GPU. */
#include "schedule/cuda.h"

#include "schedule/items.h"

_Static_assert(FM_KERNEL_SMALL_PIECES == FM_SMALL_PIECES && FM_KERNEL_NODE_PIECES == FM_NODE_PIECES &&
                   FM_KERNEL_BUDGETS == FM_BUDGETS,
               "the device's pieces are the host's");

int64_t fm_divisor(int32_t d) {
  const uint64_t shift = d > 1 ? 63 - (uint64_t)__builtin_clz((uint32_t)d - 1) : 31;
  const uint64_t multiplier = ((UINT64_C(1) << shift) + (uint64_t)d - 1) / (uint64_t)d;
  return (int64_t)(shift << 32 | multiplier);
}

fm_divisors fm_divisors_of(const fm_work *work, const fm_tiling *tiling) {
  const int32_t block_rows = tiling->block_heads * tiling->block_tokens;
  return (fm_divisors){.tile_major = fm_divisor(tiling->request_major ? tiling->tiles_per_request : work->batch),
                       .tiles_per_head = fm_divisor(tiling->tiles_per_head),
                       .head_chunks = fm_divisor(tiling->head_chunks),
                       .block_heads = fm_divisor(tiling->block_heads),
                       .block_rows = fm_divisor(block_rows),
                       .tile_rows = fm_divisor(block_rows * tiling->cluster),
                       .piece_units = fm_divisor(fm_max32(tiling->piece_units, 1))};
}

flashmla_status fm_load_plan(fm_gpu gpu, fm_loaded *plan) {
  return fm_load(gpu, (fm_need){.family = FM_KERNEL_PLAN}, plan);
}

flashmla_status fm_launch_plan(fm_gpu gpu, const fm_loaded *plan, const fm_work *work, const fm_tiling *tiling,
                               const fm_divisors *divisors, const fm_schedule *schedule, void *stream) {
  const int32_t small = tiling->piece_units + tiling->piece_overhead;
  const fm_plan_kernel_params params = {FM_SCHEDULE_FIELDS(work, tiling, divisors, schedule),
                                        .lengths = work->lengths,
                                        .capacity = work->capacity,
                                        .extra_lengths = work->extra_lengths,
                                        .extra_capacity = work->extra_capacity,
                                        .window = work->window,
                                        .first_slot = schedule->first_slot,
                                        .cost_before = schedule->cost_before,
                                        .bands = tiling->bands,
                                        .num_splits = tiling->num_splits,
                                        .pieces_apart = tiling->pieces_apart,
                                        .piece_units = tiling->piece_units,
                                        .piece_overhead = tiling->piece_overhead,
                                        .by_small_piece = fm_divisor(fm_max32(small, 1)),
                                        .by_large_piece = fm_divisor(fm_max32(small + tiling->piece_units, 1)),
                                        .slots = tiling->slots,
                                        .whole_units = tiling->whole_units,
                                        .start_overhead = tiling->start_overhead,
                                        .split_overhead = tiling->split_overhead};
  return fm_launch(gpu, plan, 1, &params, stream);
}
