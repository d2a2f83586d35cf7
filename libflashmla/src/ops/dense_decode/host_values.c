/* host_values.c - lengths and query offsets of a call on host memory. Other threads may write them while it runs, and
 * what the scheduler, the parts and the rows of results make of them must agree, so they are read once. */
#include <stdlib.h>
#include <string.h>

#include "ops/dense_decode/dense_decode.h"

static const int32_t *taken(const int32_t *values, size_t count, int32_t **room) {
  if (values == NULL) return NULL;
  int32_t *copy = memcpy(*room, values, count * sizeof *values);
  *room += count;
  return copy;
}

flashmla_status fm_with_values_taken(const fm_call *call, const fm_dense_decode *given, fm_dense_decode_run *run) {
  const fm_work *work = &given->attention.work;
  const size_t batch = (size_t)work->batch;
  int32_t *const memory = malloc((3 * batch + 1) * sizeof *memory), *room = memory;
  if (memory == NULL)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for the lengths of %d requests could not be allocated",
                   work->batch);
  fm_dense_decode decode = *given;
  decode.attention.work.lengths = taken(work->lengths, batch, &room);
  decode.attention.work.cu_seqlens_q = taken(work->cu_seqlens_q, batch + 1, &room);
  decode.attention.mask.global_seqlens = taken(given->attention.mask.global_seqlens, batch, &room);
  const flashmla_status status = run(call, &decode);
  free(memory);
  return status;
}
