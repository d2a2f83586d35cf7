/* host_values.c - lengths, query offsets and the plan's schedule of a call on host memory. Other threads may write them
 * while it runs, and what the scheduler, the parts and the rows of results make of them must agree, so they are read
 * once, before the schedule is checked. */
#include <stdlib.h>
#include <string.h>

#include "attention/cpu_run.h"

enum { ARRAYS = 4 /* of the requests, that may be taken */ };

/* Of a schedule, what parts are read from. */
static size_t integers_of(const fm_tiling *tiling) {
  const size_t parts = (size_t)tiling->num_parts;
  return 2 * (parts + 1) + (tiling->piece_units > 0 ? parts + 2 : 0);
}

static int32_t *taken(const void *values, size_t count, int32_t **room) {
  if (values == NULL) return NULL;
  int32_t *copy = memcpy(*room, values, count * sizeof *copy);
  *room += count;
  return copy;
}

static fm_schedule schedule_taken(const fm_tiling *tiling, fm_schedule given, int32_t **room) {
  const size_t parts = (size_t)tiling->num_parts;
  return (fm_schedule){.cuts = (fm_cut *)(void *)taken(given.cuts, 2 * (parts + 1), room),
                       .first_slot = taken(given.first_slot, parts + 2, room)};
}

flashmla_status fm_with_values_taken(fm_call *call, fm_attention *attention, fm_hook *run, void *state) {
  const fm_work work = attention->work;
  const fm_mask mask = attention->mask;
  const fm_schedule schedule = attention->schedule;
  const size_t batch = (size_t)work.batch;
  const size_t integers = ARRAYS * batch + 1 + (attention->own_plan ? 0 : integers_of(&attention->tiling));
  int32_t *const memory = malloc(integers * sizeof *memory), *room = memory;
  if (memory == NULL)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for the lengths of %d requests could not be allocated",
                   work.batch);
  attention->work.lengths = taken(work.lengths, batch, &room);
  attention->work.extra_lengths = taken(work.extra_lengths, batch, &room);
  attention->work.cu_seqlens_q = taken(work.cu_seqlens_q, batch + 1, &room);
  attention->mask.global_seqlens = taken(mask.global_seqlens, batch, &room);
  flashmla_status status = FLASHMLA_OK;
  if (!attention->own_plan) {
    attention->schedule = schedule_taken(&attention->tiling, schedule, &room);
    status = fm_check_schedule(&attention->work, &attention->tiling, attention->schedule);
  }
  if (status == FLASHMLA_OK) status = run(call, state);
  attention->work = work;
  attention->mask = mask;
  attention->schedule = schedule;
  free(memory);
  return status;
}
