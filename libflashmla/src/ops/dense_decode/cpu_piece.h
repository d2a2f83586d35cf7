/* cpu_piece.h - attention of one piece of a tile on the CPU. */
#ifndef FLASHMLA_OPS_DENSE_DECODE_CPU_PIECE_H_
#define FLASHMLA_OPS_DENSE_DECODE_CPU_PIECE_H_

#include "attention/cpu.h"
#include "cpu/isa.h"
#include "ops/dense_decode/dense_decode.h"

/* What a thread works with. */
typedef struct fm_piece_worker {
  const fm_cpu_elements *elements;
  const fm_cpu_step *step;
  void *scratch; /* of the step */
  void *totals;  /* fm_piece_totals_bytes */
  int32_t tile;  /* whose queries are in scratch; -1: none yet */
} fm_piece_worker;

/* A tile of tokens * heads query rows. */
fm_cpu_tile fm_tile_of(const fm_dense_decode *decode, int32_t tokens, int32_t heads);

/* Memory in which a thread adds up long pieces; 0: none is so long. A multiple of 16 bytes. */
size_t fm_piece_totals_bytes(const fm_dense_decode *decode);

/* Units [first, last) of a tile; last < 0: to the current end. slot < 0: the tile is whole and goes to out and lse,
 * else to that partial slot. */
void fm_attend_piece(const fm_dense_decode *decode, fm_piece_worker *worker, int32_t tile, int32_t first, int32_t last,
                     int64_t slot);

#endif /* FLASHMLA_OPS_DENSE_DECODE_CPU_PIECE_H_ */
