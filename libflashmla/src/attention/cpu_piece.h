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

/* Memory in which a thread adds up long pieces; 0: none is so long. A multiple of 64 bytes. */
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
/* Whether parts [first, end) have all pieces of one tile, two or more, and nothing else; attends that tile. */
bool fm_is_cut_tile(const fm_attention *attention, int32_t first, int32_t end);
void fm_attend_cut_tile(const fm_attention *attention, fm_piece_worker *worker, int32_t first, int32_t end);

/* Joins the pieces of the tile that part `part` begins and does not end, if there is one: rows [row, row + count). */
void fm_join_pieces(const fm_attention *attention, const fm_cpu_elements *elements, int32_t part, int32_t row,
                    int32_t count);

/* cpu_items.c: the same of batch-invariant work. */
void fm_attend_invariant_part(const fm_attention *attention, fm_piece_worker *worker, int32_t part);
void fm_join_items(const fm_attention *attention, const fm_cpu_elements *elements, int32_t part, int32_t row,
                   int32_t count);

/* Sets of rows that a thread folds to (cpu_fold.h). */
enum { FM_CPU_SETS_OF_PARTS = 1, FM_CPU_SETS_OF_ITEMS = 2 };

#endif /* FLASHMLA_ATTENTION_CPU_PIECE_H_ */
