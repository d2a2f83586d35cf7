/* queries.c - which query tokens and how many KV items a request has: what the caller's device values mean, clamped. */
#include "schedule/schedule.h"

bool fm_is_empty(const fm_work *work) { return work->batch == 0 || (work->varlen ? work->total_q : work->s_q) == 0; }

int64_t fm_query_tokens(const fm_work *work) { return work->varlen ? work->total_q : (int64_t)work->batch * work->s_q; }

fm_query_range fm_query_range_of(const fm_work *work, int32_t request) {
  if (work->cu_seqlens_q == NULL) return (fm_query_range){.begin = 0, .count = work->s_q};
  const int32_t *offset = work->cu_seqlens_q + request;
  const int64_t begin = fm_clamp64(offset[0], 0, work->total_q);
  const int64_t end = fm_clamp64(offset[1], begin, work->total_q);
  return (fm_query_range){.begin = (int32_t)begin, .count = (int32_t)fm_min64(end - begin, work->s_q)};
}

static int64_t clamped(const int32_t *lengths, int32_t request, int32_t capacity) {
  return lengths != NULL ? fm_clamp64(lengths[request], 0, capacity) : capacity;
}

int64_t fm_items_of(const fm_work *work, int32_t request) { return clamped(work->lengths, request, work->capacity); }

int64_t fm_extra_items_of(const fm_work *work, int32_t request) {
  return clamped(work->extra_lengths, request, work->extra_capacity);
}

int64_t fm_extra_begin(const fm_work *work, int32_t unit, int32_t request) {
  return fm_ceil_div(fm_items_of(work, request), unit) * unit;
}

int64_t fm_first_item(const fm_work *work, int32_t unit, int32_t request) {
  if (work->window == 0 || work->batch_invariant) return 0;
  const int64_t others = fm_max64(fm_query_range_of(work, request).count, 1) - 1;
  return fm_max64(fm_items_of(work, request) - others - work->window, 0) / unit * unit;
}

int64_t fm_length_of(const fm_work *work, int32_t unit, int32_t request) {
  if (work->extra_capacity == 0) return fm_items_of(work, request) - fm_first_item(work, unit, request);
  return fm_extra_begin(work, unit, request) + fm_extra_items_of(work, request);
}
