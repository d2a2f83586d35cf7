/* cpu.h - the query rows of a tile on the CPU: which they are, what they attend, where their results go. A tile is one
 * row block there. */
#ifndef FLASHMLA_ATTENTION_CPU_H_
#define FLASHMLA_ATTENTION_CPU_H_

#include "attention/attention.h"
#include "cpu/isa.h"

/* Row r is token first_token + r / heads of the request, head first_head + r % heads. */
typedef struct fm_rows {
  int32_t request, kv_head;
  fm_query_range queries; /* of the request */
  int32_t first_token, tokens;
  int32_t first_head, heads; /* within the KV head's group */
  int32_t count;             /* tokens * heads; 0: a dead tile */
  int64_t first_item;        /* of the first unit */
  int64_t length;            /* KV items of the request, clamped */
} fm_rows;

fm_rows fm_rows_of(const fm_attention *attention, int32_t tile);
/* The next tile in which there may be something to do: behind a dead one all others of its KV head are dead, too. */
static inline int32_t fm_tile_behind(const fm_attention *attention, const fm_rows *rows, int32_t tile) {
  const int32_t of_head = attention->tiling.tiles_per_head;
  const bool dead = rows->count == 0 && attention->tiling.request_major;
  return dead ? tile - tile % of_head + of_head : tile + 1;
}
/* Query token `token` of the request attends to tokens [0, bound); 0: an empty row. Grows with the token. */
int64_t fm_row_bound(const fm_attention *attention, const fm_rows *rows, int32_t token);
/* Elements before a row of a tensor with these strides: batch, token, head. */
int64_t fm_row_offset(const fm_attention *attention, const fm_rows *rows, int32_t row, const int64_t stride[3]);
/* Writes values * scale and the log-sum-exp of a row, given as a natural one, to out and lse; values NULL: an empty
 * row. */
void fm_write_row(const fm_attention *attention, const fm_cpu_elements *elements, const fm_rows *rows, int32_t row,
                  const float *values, float scale, double lse);

#endif /* FLASHMLA_ATTENTION_CPU_H_ */
