/* cpu_piece.h - attention of the pieces of tiles on the CPU. */
#ifndef FLASHMLA_ATTENTION_CPU_PIECE_H_
#define FLASHMLA_ATTENTION_CPU_PIECE_H_

#include "attention/cpu_run.h"
#include "cpu/isa.h"

/* What a thread works with. */
typedef struct fm_piece_worker {
  const fm_key_source *source;
  const fm_cpu_elements *elements;
  const fm_cpu_step *step;
  void *scratch; /* of the step */
  void *totals;  /* fm_piece_totals_bytes */
  void *folds;   /* fm_folds_bytes, 64-byte aligned */
  void *keys;    /* of the source: room_bytes */
  void *queries; /* fm_queries_bytes */
  int32_t tile;  /* whose queries are in scratch; -1: none yet */
} fm_piece_worker;

/* A tile of tokens * heads query rows. */
fm_cpu_tile fm_tile_of(const fm_attention *attention, const fm_key_source *source, int32_t tokens, int32_t heads);

/* Memory in which a thread puts rows of queries together that do not lie so; 0: all do. A multiple of 64 bytes. */
size_t fm_queries_bytes(const fm_attention *attention);

/* Memory in which a thread adds up long pieces; 0: none is so long. A multiple of 16 bytes. */
size_t fm_piece_totals_bytes(const fm_attention *attention);

/* A row of results before it is rounded. */
typedef struct fm_row_result {
  const float *values; /* NULL: the row is empty; else 64-byte aligned and valid until the next row */
  float normalise;
  double lse; /* natural; -inf of an empty row */
} fm_row_result;
typedef void fm_row_sink(void *context, int32_t row, fm_row_result result);

/* Attends units [first, last) of a tile; last < 0: to the current end. Tells the results of its rows in turn. */
void fm_attend_piece(const fm_attention *attention, fm_piece_worker *worker, int32_t tile, int64_t first, int64_t last,
                     fm_row_sink *sink, void *context);

/* cpu_fold.c: rows of a tile that its pieces are folded to in memory of the thread, which has `levels` of them. A
 * multiple of 64 bytes. */
size_t fm_folds_bytes(const fm_attention *attention, int32_t levels);
typedef struct fm_folded {
  float *values; /* [rows][d_v], 64-byte aligned */
  double *lse;   /* [rows], base 2; -inf: empty */
} fm_folded;
fm_folded fm_folded_in(const fm_attention *attention, const fm_piece_worker *worker, int32_t level);
void fm_empty_folded(fm_folded to, int32_t rows);
/* A sink that folds. */
typedef struct fm_fold_target {
  const fm_cpu_elements *elements;
  int32_t d_v;
  fm_folded to;
} fm_fold_target;
fm_row_sink fm_fold_result;
void fm_write_folded(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows,
                     fm_folded folded);

/* cpu_parts.c: all that a part has, each piece of a cut tile into its partial slot. */
void fm_attend_part(const fm_attention *attention, fm_piece_worker *worker, int32_t part);
/* Whether parts [first, end) have all pieces of one tile, and nothing else; attends that tile. It takes one level. */
bool fm_is_cut_tile(const fm_attention *attention, int32_t first, int32_t end);
void fm_attend_cut_tile(const fm_attention *attention, fm_piece_worker *worker, int32_t first, int32_t end);

/* cpu_items.c: all that a part of batch-invariant work has, which takes so many levels. */
enum { FM_CPU_ITEM_LEVELS = 2 };
void fm_attend_invariant_part(const fm_attention *attention, fm_piece_worker *worker, int32_t part);

#endif /* FLASHMLA_ATTENTION_CPU_PIECE_H_ */
