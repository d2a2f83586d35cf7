/* cuda.h - what the kernels that read a schedule are told of it, and the launch of the one that makes it. */
#ifndef FLASHMLA_SCHEDULE_CUDA_H_
#define FLASHMLA_SCHEDULE_CUDA_H_

#include "cuda/launch.h"
#include "schedule/schedule.h"

/* A divisor d >= 1 for schedule.divide in dsl_kernels/core: {multiplier ceil(2^s / d), shift s = 31 + ceil(log2 d)}.
 * With numerators below 2^31 the quotient is exact (Granlund and Montgomery, "Division by Invariant Integers using
 * Multiplication", PLDI 1994). */
int64_t fm_divisor(int32_t d);
fm_divisors fm_divisors_of(const fm_work *work, const fm_tiling *tiling);

/* Fields that the params of plan, combine and every attention kernel have in common. */
#define FM_SCHEDULE_FIELDS(work, tiling, divisors, schedule)                                                  \
  .cuts = &(schedule)->cuts->tile, .cu_seqlens_q = (work)->cu_seqlens_q, .total_q = (work)->total_q,          \
  .s_q = (work)->s_q, .group = (tiling)->group, .block_heads = (tiling)->block_heads,                         \
  .block_tokens = (tiling)->block_tokens, .head_chunks = (tiling)->head_chunks, .cluster = (tiling)->cluster, \
  .tiles_per_head = (tiling)->tiles_per_head, .tiles_per_request = (tiling)->tiles_per_request,               \
  .batch = (work)->batch, .num_tiles = (tiling)->num_tiles, .num_parts = (tiling)->num_parts,                 \
  .by_tile_major = (divisors)->tile_major, .by_tiles_per_head = (divisors)->tiles_per_head,                   \
  .by_head_chunks = (divisors)->head_chunks, .by_block_heads = (divisors)->block_heads

/* Those of kernels that need not read cuts which are known. */
#define FM_KNOWN_CUTS_FIELDS(known)                                                                        \
  .tile_cost = (known)->tile_cost, .begin_cost = (known)->begin_cost, .group_parts = (known)->group_parts, \
  .group_cost = (known)->group_cost, .first_cost = (known)->first_cost, .part_cost = (known)->part_cost,   \
  .total_cost = (known)->total_cost, .by_tile_cost = fm_divisor(fm_max32((known)->tile_cost, 1)),          \
  .by_group_parts = fm_divisor(fm_max32((known)->group_parts, 1))

/* What those of dense_decode and fold have, which meet batch-invariant work. */
#define FM_SLOT_FIELDS(tiling, divisors, schedule)                                                      \
  .first_slot = (schedule)->first_slot, .slots = (tiling)->slots, .piece_units = (tiling)->piece_units, \
  .by_piece_units = (divisors)->piece_units

/* cuda.c */
flashmla_status fm_load_plan(fm_gpu gpu, fm_loaded *plan);
flashmla_status fm_launch_plan(fm_gpu gpu, const fm_loaded *plan, const fm_work *work, const fm_tiling *tiling,
                               const fm_divisors *divisors, const fm_schedule *schedule, void *stream);

#endif /* FLASHMLA_SCHEDULE_CUDA_H_ */
