/* merge.c - joins the partial results of a tile that several parts worked on. */
#include <math.h>

#include "cpu.h"

int64_t fm_cpu_slot(const fm_tiling *tiling, int32_t part, bool begins) {
  return (int64_t)tiling->slots_per_part * part + (begins ? tiling->slots_per_part - 1 : 0);
}

/* Index of row `row` of the piece that part v has of the tile that `part` begins; -1: part v is empty. */
static int64_t partial_row(const fm_run *run, int32_t part, int32_t v, int32_t row) {
  const fm_cut from = run->cuts[v], to = run->cuts[v + 1];
  if (from.tile == to.tile && from.page == to.page) return -1;
  return fm_cpu_slot(&run->tiling, v, v == part) * run->tiling.block_rows + row;
}

/* Joins row `row` of the tile that parts `part` ... `end` worked on. Base-2 log-sum-exps weigh the normalised rows. */
static void merge_row(const fm_run *run, const fm_cpu_kernels *kernels, const fm_cpu_rows *rows, int32_t part,
                      int32_t end, int32_t row) {
  float largest = -INFINITY;
  bool attended = false;
  for (int32_t v = part; v <= end; v++) {
    const int64_t at = partial_row(run, part, v, row);
    if (at < 0 || run->partial_facts[at] == -INFINITY) continue;
    attended = true; /* though perhaps with NaN, which is no maximum */
    if (run->partial_facts[at] > largest) largest = run->partial_facts[at];
  }
  if (!attended) {
    fm_cpu_write_row(&run->problem, kernels, rows, row, NULL, 0, 0);
    return;
  }
  const int32_t d_v = run->problem.d_v;
  float sum[FM_CPU_SUM_STRIDE] __attribute__((aligned(64))) = {0};
  double total = 0;
  for (int32_t v = part; v <= end; v++) {
    const int64_t at = partial_row(run, part, v, row);
    if (at < 0 || run->partial_facts[at] == -INFINITY) continue; /* -inf: the values were not written */
    const float weight = FM_FAULTY(FM_FAULT_SPLIT_WEIGHT) ? 1.0f : exp2f(run->partial_facts[at] - largest);
    kernels->add_weighted(sum, (float *)run->partial + at * d_v, weight, d_v);
    total += weight;
  }
  const double lse = (largest + log2(total)) * M_LN2;
  fm_cpu_write_row(&run->problem, kernels, rows, row, sum, (float)(1 / total), lse);
}

void fm_cpu_merge(const fm_run *run, const fm_cpu_kernels *kernels, int32_t part, int32_t row, int32_t rows) {
  const fm_cut from = run->cuts[part], to = run->cuts[part + 1];
  const int32_t tile = to.tile; /* the tile that the next cut divides, if it does */
  const bool begins = to.page > 0 && (from.tile < tile || from.page == 0);
  if (!begins) return;
  int32_t end = part + 1;
  while (run->cuts[end + 1].tile == tile) end++;
  const fm_cpu_rows block = fm_cpu_rows_of(run, tile);
  for (int32_t r = row; r < row + rows && r < block.count; r++) merge_row(run, kernels, &block, part, end, r);
}
