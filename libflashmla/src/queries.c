/* queries.c - which query tokens a request has, and how much of its cache each of them attends. */
#include "arith.h"
#include "internal.h"

bool fm_is_empty(const fm_problem *problem) {
  return problem->batch == 0 || (problem->varlen ? problem->total_q : problem->s_q) == 0;
}

fm_query_range fm_query_range_of(const fm_problem *problem, int32_t request) {
  if (problem->cu_seqlens_q == NULL) return (fm_query_range){.begin = 0, .count = problem->s_q};
  const int32_t *offset = problem->cu_seqlens_q + request;
  const int64_t begin = fm_clamp64(offset[0], 0, problem->total_q);
  const int64_t end = fm_clamp64(offset[1], begin, problem->total_q);
  return (fm_query_range){.begin = (int32_t)begin, .count = (int32_t)fm_min64(end - begin, problem->s_q)};
}

/* How many of the global tokens below `bound` lie in this shard. */
static int64_t local_tokens(const fm_problem *problem, int64_t bound) {
  if (bound <= 0) return 0;
  const int64_t interleave = FM_FAULTY(FM_FAULT_CP_INTERLEAVE) ? 1 : problem->cp_interleave;
  const int64_t round = interleave * problem->cp_world;
  const int64_t rank = FM_FAULTY(FM_FAULT_CP_RANK) ? 0 : problem->cp_rank;
  const int64_t before = rank * interleave; /* of the other shards, in each round */
  return bound / round * interleave + fm_clamp64(bound % round - before, 0, interleave);
}

int64_t fm_attended(const fm_problem *problem, int32_t request, int64_t length, int32_t count, int32_t token) {
  const int64_t masked = problem->causal ? (int64_t)count - 1 - token : 0;
  if (problem->cp_world == 0) return fm_max64(length - masked, 0);
  const int64_t global = fm_max64(problem->global_seqlens[request], 0);
  if (FM_FAULTY(FM_FAULT_CP_CAUSAL)) return fm_max64(fm_min64(length, local_tokens(problem, global)) - masked, 0);
  return fm_min64(length, local_tokens(problem, global - masked));
}
