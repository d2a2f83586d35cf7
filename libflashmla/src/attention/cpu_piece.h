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
  void *folds;   /* fm_folds_bytes */
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

/* cpu_parts.c: all that a part has, each piece of a cut tile into its partial slot. */
void fm_attend_part(const fm_attention *attention, fm_piece_worker *worker, int32_t part);

/* cpu_items.c: the same of batch-invariant work, which takes memory to fold in. A multiple of 64 bytes. */
size_t fm_folds_bytes(const fm_attention *attention);
void fm_attend_invariant_part(const fm_attention *attention, fm_piece_worker *worker, int32_t part);

#endif /* FLASHMLA_ATTENTION_CPU_PIECE_H_ */
