/* describe.c - see describe.h. */
#include "attention/describe.h"

void fm_describe_attention(const fm_attention *attention, fm_facts *facts) {
  flashmla_call_record *record = &facts->record;
  record->s_q = attention->work.s_q;
  record->h_kv = attention->work.h_kv;
  record->d_qk = attention->queries.d_qk;
  record->d_v = attention->d_v;
  record->capacity = attention->work.capacity;
  record->extra_topk = attention->work.extra_capacity;
  record->window = attention->work.window;
  record->parts = attention->tiling.num_parts;
  record->cluster = attention->tiling.cluster;
  /* Pieces of work apart follow from its formats; nobody gave them. */
  record->num_splits = attention->tiling.pieces_apart > 0 ? attention->work.num_splits : attention->tiling.num_splits;
  if (attention->own_plan && attention->known.tile_cost == 0) record->flags |= FLASHMLA_CALL_OWN_PLAN;
  if (attention->tuned.found) record->flags |= FLASHMLA_CALL_TUNED;
  if (attention->work.batch_invariant) record->flags |= FLASHMLA_CALL_BATCH_INVARIANT;
}

fm_items_read fm_attended_items(const fm_attention *attention, const int32_t *lengths, int64_t capacity,
                                int64_t row_bytes) {
  enum { FLOP = 2 /* of a multiplication and its addition */ };
  const fm_work *work = &attention->work;
  const int64_t tokens = work->varlen ? fm_ceil_div(work->total_q, work->batch) : work->s_q;
  /* Query tokens with items of their own read as many each. */
  const int64_t reads = work->own_items ? tokens : 1;
  return (fm_items_read){.lengths = lengths,
                         .requests = work->batch,
                         .capacity = capacity,
                         .bytes = row_bytes * reads,
                         .flop = FLOP * ((int64_t)attention->queries.d_qk + attention->d_v) * work->h_q * tokens};
}
