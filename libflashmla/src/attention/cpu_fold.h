/* cpu_fold.h - joins the pieces of a tile one after the other, in the order of the tile: in memory of the thread that
 * has them all, or in partial slots. */
#ifndef FLASHMLA_ATTENTION_CPU_FOLD_H_
#define FLASHMLA_ATTENTION_CPU_FOLD_H_

#include "attention/cpu_piece.h"

/* What is folded is a normalised float32 row with a base-2 log-sum-exp; -inf: it is empty and holds nothing. Folds
 * another row `x` into `values`. */
void fm_fold_row(const fm_cpu_elements *elements, float *values, double *lse, const float *x, double x_lse,
                 int32_t d_v);
void fm_write_folded_row(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows,
                         int32_t row, const float *values, double lse);

/* Row `at` of all partial slots is such a row: stores values * normalise and the log-sum-exp there; folds it in. */
enum { FM_CPU_PARTIAL_FACTS = sizeof(double) / sizeof(float) };
void fm_store_partial_row(const fm_attention *attention, int64_t at, const fm_cpu_elements *elements,
                          const float *values, float normalise, double lse);
void fm_fold_partial_row(const fm_attention *attention, int64_t at, const fm_cpu_elements *elements, float *values,
                         double *lse);

/* Rows of a tile that its pieces are folded to, in the memory of a thread: worker->folds, which has room for `count`
 * such sets, and for a row on its way there. A multiple of 64 bytes. */
size_t fm_folds_bytes(const fm_attention *attention, int32_t count);
typedef struct fm_folded {
  float *values; /* [rows][d_v], 64-byte aligned */
  double *lse;   /* [rows] */
} fm_folded;
fm_folded fm_folded_in(const fm_attention *attention, const fm_piece_worker *worker, int32_t set);
void fm_empty_folded(fm_folded to, int32_t rows);
/* A sink that folds. */
typedef struct fm_fold_target {
  const fm_cpu_elements *elements;
  int32_t d_v;
  float *row; /* on its way */
  fm_folded to;
} fm_fold_target;
/* One of which nothing is folded yet. */
fm_fold_target fm_fold_into(const fm_attention *attention, const fm_piece_worker *worker, int32_t set);
fm_row_sink fm_fold_result;
void fm_write_folded(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows,
                     fm_folded folded);

#endif /* FLASHMLA_ATTENTION_CPU_FOLD_H_ */
