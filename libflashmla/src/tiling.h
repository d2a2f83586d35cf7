/* tiling.h - what the tiling of a call and the choice of its kernel both ask. */
#ifndef FLASHMLA_TILING_H_
#define FLASHMLA_TILING_H_

#include "arith.h"
#include "internal.h"

/* fm_tiling.blocks, of blocks that hold block_rows rows. */
static inline int64_t fm_row_blocks(const fm_problem *problem, int32_t block_rows) {
  const int64_t group = problem->h_q / problem->h_kv, block_heads = fm_min64(group, block_rows);
  return fm_ceil_div(problem->s_q, block_rows / block_heads) * fm_ceil_div(group, block_heads);
}

/* The most units of KV that a request can have. */
static inline int64_t fm_most_units(const fm_problem *problem, int32_t unit) {
  return fm_ceil_div(fm_min64((int64_t)problem->max_blocks * problem->page_size, INT32_MAX), unit);
}

/* Whether every column gets as many parts as any other: no more than a sixteenth of them is left over. */
static inline bool fm_cut_alike(const fm_problem *problem, int32_t num_parts, int64_t columns) {
  return !problem->varlen && num_parts % columns <= num_parts / 16;
}

#endif /* FLASHMLA_TILING_H_ */
