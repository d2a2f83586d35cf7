/* A call on host memory goes on with the lengths, query offsets and schedule that it began with, whatever becomes of
 * the caller's. */
#include "attention/cpu_run.h"
#include "check.h"

enum { BATCH = 3, PARTS = 2 };
static int32_t lengths[BATCH] = {5, 6, 7}, offsets[BATCH + 1] = {0, 1, 2, 3}, global[BATCH] = {50, 60, 70};
static const fm_cut planned_cuts[PARTS + 1] = {{0, 0}, {1, 0}, {BATCH, 0}};
static fm_cut cuts[PARTS + 1];
static int32_t first_slot[PARTS + 2];
static bool varlen, sharded, extra, planned, invariant;
static int runs;

static flashmla_status changed_meanwhile(fm_call *call, void *state) {
  const fm_attention *attention = state;
  const fm_work *work = &attention->work;
  const int32_t *whole = attention->mask.global_seqlens;
  const fm_schedule schedule = attention->schedule;
  CHECK(call == NULL && work->batch == BATCH && work->s_q == 9);
  CHECK((work->cu_seqlens_q != NULL) == varlen && (whole != NULL) == sharded && (work->extra_lengths != NULL) == extra);
  for (int i = 0; i < BATCH; i++) {
    lengths[i] = global[i] = -1;
    offsets[i + 1] = 1000;
  }
  memset(cuts, 0xff, sizeof cuts);
  memset(first_slot, 0xff, sizeof first_slot);
  for (int i = 0; i < BATCH; i++) {
    CHECK(work->lengths[i] == 5 + i);
    if (extra) CHECK(work->extra_lengths[i] == 5 + i);
    if (varlen) CHECK(work->cu_seqlens_q[i + 1] == i + 1);
    if (sharded) CHECK(whole[i] == 10 * (5 + i));
  }
  CHECK((schedule.cuts != cuts) == planned && (schedule.first_slot != NULL) == (planned && invariant));
  if (planned) CHECK(memcmp(schedule.cuts, planned_cuts, sizeof cuts) == 0);
  for (int i = 0; schedule.first_slot != NULL && i < PARTS + 2; i++) CHECK(schedule.first_slot[i] == 0);
  runs++;
  return FLASHMLA_ERROR_OVERFLOW;
}

static void fill(void) {
  for (int i = 0; i < BATCH; i++) {
    lengths[i] = 5 + i;
    offsets[i + 1] = i + 1;
    global[i] = 10 * (5 + i);
  }
  memcpy(cuts, planned_cuts, sizeof cuts);
  memset(first_slot, 0, sizeof first_slot);
}

static fm_attention call_of(void) {
  fm_attention attention = {
      .work = {.batch = BATCH, .s_q = 9, .lengths = lengths, .capacity = 640},
      .own_plan = !planned,
      .tiling = {.num_tiles = BATCH, .num_parts = PARTS, .unit = 64, .piece_units = invariant ? 8 : 0},
      .schedule = {.cuts = cuts, .first_slot = planned && invariant ? first_slot : NULL}};
  if (varlen) attention.work.cu_seqlens_q = offsets;
  if (sharded) attention.mask.global_seqlens = global;
  if (extra) attention.work.extra_lengths = lengths;
  return attention;
}

int main(void) {
  for (int kind = 0; kind < 32; kind++) {
    varlen = kind & 1;
    sharded = kind & 2;
    extra = kind & 4;
    planned = kind & 8;
    invariant = kind & 16;
    fill();
    fm_attention attention = call_of();
    CHECK(fm_with_values_taken(NULL, &attention, changed_meanwhile, &attention) == FLASHMLA_ERROR_OVERFLOW);
    CHECK(runs == kind + 1 && attention.work.lengths == lengths && attention.schedule.cuts == cuts);
    CHECK(attention.mask.global_seqlens == (sharded ? global : NULL));
  }
  fill();
  cuts[1].tile = BATCH + 1;
  fm_attention attention = call_of();
  CHECK_STATUS(fm_with_values_taken(NULL, &attention, changed_meanwhile, &attention), FLASHMLA_ERROR_PLAN_MISMATCH,
               "entry 1 of 3");
  CHECK(runs == 32);
  return 0;
}
