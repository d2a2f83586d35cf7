/* pieces.c - where the pieces of a block lie, in the caches and in a row of host_pool. */
#include "pool/pool.h"

flashmla_status fm_copy_pieces(const flashmla_pool *pool, const fm_block_copy *copies, int32_t count, fm_route route,
                               fm_copy_piece *copy, const void *with) {
  const fm_pool_memory *memory = &pool->memory;
  const int64_t row_bytes = pool->books.sizes.block_bytes;
  for (int32_t i = 0; i < count; ++i) {
    const int64_t to_block = copies[i].to, from_block = copies[i].from;
    int64_t in_row = 0;
    for (const fm_segment *in = memory->segments; in < memory->segments + memory->num_segments; ++in) {
      char *to = route == FM_TO_HOST ? memory->host + to_block * row_bytes + in_row : in->data + to_block * in->step;
      const char *from =
          route == FM_FROM_HOST ? memory->host + from_block * row_bytes + in_row : in->data + from_block * in->step;
      FM_TRY(copy(with, to, from, in->bytes));
      in_row += in->bytes;
    }
  }
  return FLASHMLA_OK;
}
