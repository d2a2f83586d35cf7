/* piece.h - attention of one piece of a tile on the CPU. */
#ifndef FLASHMLA_OPS_DENSE_DECODE_PIECE_H_
#define FLASHMLA_OPS_DENSE_DECODE_PIECE_H_

#include "attention/rows.h"
#include "ops/dense_decode/dense_decode.h"

/* Units [first, last) of a tile; last < 0: to the current end. slot < 0: the tile is whole and goes to out and lse,
 * else to that partial slot. */
void fm_attend_piece(const fm_dense_decode *decode, const fm_cpu_kernels *kernels, fm_cpu_scratch *scratch,
                     int32_t tile, int32_t first, int32_t last, int64_t slot);

#endif /* FLASHMLA_OPS_DENSE_DECODE_PIECE_H_ */
