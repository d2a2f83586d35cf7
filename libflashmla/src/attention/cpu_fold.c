/* cpu_fold.c - see cpu_fold.h. Log-sum-exps are float64 here: a long request has hundreds of pieces, and each fold
 * would round them. */
#include <math.h>
#include <string.h>

#include "attention/cpu_fold.h"

void fm_fold_row(const fm_cpu_elements *elements, float *values, double *lse, const float *x, double x_lse,
                 int32_t d_v) {
  if (x_lse == -INFINITY) return;
  if (*lse == -INFINITY) {
    memcpy(values, x, sizeof *x * (size_t)d_v);
    *lse = x_lse;
    return;
  }
  const double largest = *lse > x_lse ? *lse : x_lse;
  const double before = exp2(*lse - largest), now = exp2(x_lse - largest), sum = before + now;
  elements->narrow[FM_FP32](values, values, (float)(before / sum), d_v);
  elements->add_weighted(values, x, (float)(now / sum), d_v);
  *lse = largest + log2(sum);
}

void fm_write_folded_row(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows,
                         int32_t row, const float *values, double lse) {
  fm_write_row(attention, elements, rows, row, lse == -INFINITY ? NULL : values, 1.0f, lse * M_LN2);
}

/* ---- partial slots ---- */

static float *values_at(const fm_attention *attention, int64_t at) {
  return (float *)attention->partials.rows + at * attention->d_v;
}

static float *lse_at(const fm_attention *attention, int64_t at) {
  return attention->partials.facts + at * FM_CPU_PARTIAL_FACTS;
}

void fm_store_partial_row(const fm_attention *attention, int64_t at, const fm_cpu_elements *elements,
                          const float *values, float normalise, double lse) {
  memcpy(lse_at(attention, at), &lse, sizeof lse);
  if (lse == -INFINITY) return;
  elements->narrow[FM_FP32](values_at(attention, at), values, normalise, attention->d_v);
}

void fm_fold_partial_row(const fm_attention *attention, int64_t at, const fm_cpu_elements *elements, float *values,
                         double *lse) {
  double x_lse;
  memcpy(&x_lse, lse_at(attention, at), sizeof x_lse);
  fm_fold_row(elements, values, lse, values_at(attention, at), x_lse, attention->d_v);
}

/* ---- memory of a thread ---- */

static size_t values_of(const fm_attention *attention) {
  return (size_t)attention->tiling.block_rows * (size_t)attention->d_v;
}

static size_t row_bytes(const fm_attention *attention) {
  return ((size_t)attention->d_v * sizeof(float) + 63) / 64 * 64;
}

static size_t set_bytes(const fm_attention *attention) {
  const size_t lse = (size_t)attention->tiling.block_rows * sizeof(double);
  return (values_of(attention) * sizeof(float) + lse + 63) / 64 * 64;
}

size_t fm_folds_bytes(const fm_attention *attention, int32_t count) {
  return count == 0 ? 0 : row_bytes(attention) + (size_t)count * set_bytes(attention);
}

fm_folded fm_folded_in(const fm_attention *attention, const fm_piece_worker *worker, int32_t set) {
  char *sets = (char *)worker->folds + row_bytes(attention);
  float *values = (float *)(void *)(sets + (size_t)set * set_bytes(attention));
  return (fm_folded){values, (double *)(void *)(values + values_of(attention))};
}

fm_fold_target fm_fold_into(const fm_attention *attention, const fm_piece_worker *worker, int32_t set) {
  const fm_fold_target target = {worker->elements, attention->d_v, worker->folds, fm_folded_in(attention, worker, set)};
  fm_empty_folded(target.to, attention->tiling.block_rows);
  return target;
}

void fm_empty_folded(fm_folded to, int32_t rows) {
  for (int32_t row = 0; row < rows; row++) to.lse[row] = -INFINITY;
}

void fm_fold_result(void *context, int32_t row, fm_row_result result) {
  const fm_fold_target *target = context;
  const int32_t d_v = target->d_v;
  float *values = target->to.values + (int64_t)row * d_v;
  double *lse = &target->to.lse[row];
  if (result.values == NULL) return;
  if (*lse == -INFINITY) {
    target->elements->narrow[FM_FP32](values, result.values, result.normalise, d_v);
    *lse = result.lse / M_LN2;
    return;
  }
  target->elements->narrow[FM_FP32](target->row, result.values, result.normalise, d_v);
  fm_fold_row(target->elements, values, lse, target->row, result.lse / M_LN2, d_v);
}

void fm_write_folded(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows,
                     fm_folded folded) {
  for (int32_t row = 0; row < rows->count; row++)
    fm_write_folded_row(attention, elements, rows, row, folded.values + (int64_t)row * attention->d_v, folded.lse[row]);
}
