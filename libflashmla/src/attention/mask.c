/* mask.c - how much of its cache a query token attends. */
#include <math.h>

#include "attention/attention.h"

/* How many of the global tokens below `bound` lie in this shard. */
static int64_t local_tokens(const fm_mask *mask, int64_t bound) {
  if (bound <= 0) return 0;
  const int64_t interleave = mask->cp_interleave, round = interleave * mask->cp_world;
  const int64_t before = mask->cp_rank * interleave; /* of the other shards, in each round */
  return bound / round * interleave + fm_clamp64(bound % round - before, 0, interleave);
}

int64_t fm_attended(const fm_mask *mask, int32_t request, int64_t length, int32_t count, int32_t token) {
  const int64_t masked = mask->causal ? (int64_t)count - 1 - token : 0;
  if (mask->cp_world == 0) return fm_max64(length - masked, 0);
  const int64_t global = fm_max64(mask->global_seqlens[request], 0);
  return fm_min64(length, local_tokens(mask, global - masked));
}

float fm_empty_lse(uint32_t flags) { return (flags & FLASHMLA_EMPTY_LSE_MINUS) != 0 ? -INFINITY : INFINITY; }
