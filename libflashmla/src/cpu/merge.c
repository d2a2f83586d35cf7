/* merge.c - joins the partial results of a tile that several parts worked on. */
#include <math.h>
#include <string.h>

#include "cpu.h"

/* Joins row `row` from the slots 2 * part + 1 and 2 * (part + 1) ... 2 * end. Base-2 log-sum-exps weigh the normalised rows. */
static void merge_row(const fm_run *run, const fm_cpu_kernels *kernels, const fm_cpu_rows *rows, int32_t part, int32_t end, int32_t row) {
  const int64_t slot_rows = run->tiling.block_rows;
  float sum[FM_CPU_D_V] __attribute__((aligned(64)));
  float largest = -INFINITY;
  bool nan = false;
  for (int32_t v = part; v <= end; v++) {
    if (v > part && run->cuts[v].tile == run->cuts[v + 1].tile && run->cuts[v].page == run->cuts[v + 1].page) continue;
    const float lse = run->partial_lse[(v == part ? 2 * v + 1 : 2 * v) * slot_rows + row];
    if (lse > largest) largest = lse;
    nan = nan || isnan(lse);
  }
  if (largest == -INFINITY && !nan) {
    fm_cpu_write_row(&run->problem, kernels, rows, row, NULL, 0, 0);
    return;
  }
  double total = 0;
  memset(sum, 0, sizeof sum);
  for (int32_t v = part; v <= end; v++) {
    if (v > part && run->cuts[v].tile == run->cuts[v + 1].tile && run->cuts[v].page == run->cuts[v + 1].page) continue;
    const int64_t at = (v == part ? 2 * v + 1 : 2 * v) * slot_rows + row;
    if (run->partial_lse[at] == -INFINITY) continue; /* empty: its values were not written */
    const float weight = FM_FAULTY(FM_FAULT_SPLIT_WEIGHT) ? 1.0f : exp2f(run->partial_lse[at] - largest);
    const float *values = run->partial + at * FM_CPU_D_V;
    for (int32_t d = 0; d < FM_CPU_D_V; d++) sum[d] += weight * values[d];
    total += weight;
  }
  fm_cpu_write_row(&run->problem, kernels, rows, row, sum, (float)(1 / total), (largest + log2(total)) * M_LN2);
}

void fm_cpu_merge(const fm_run *run, const fm_cpu_kernels *kernels, int32_t part, int32_t row, int32_t rows) {
  const fm_cut from = run->cuts[part], to = run->cuts[part + 1];
  const int32_t tile = to.tile; /* the tile that the next cut divides */
  if (to.page == 0 || (from.tile == tile && from.page > 0)) return;
  if (from.tile == to.tile && from.page == to.page) return;
  int32_t end = part + 1;
  while (run->cuts[end + 1].tile == tile) end++;
  const fm_cpu_rows block = fm_cpu_rows_of(run, tile);
  for (int32_t r = row; r < row + rows && r < block.count; r++) merge_row(run, kernels, &block, part, end, r);
}
