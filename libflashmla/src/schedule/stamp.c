/* stamp.c - writes and checks the stamp of a flashmla_plan. */
#include "schedule/stamp.h"

#include <string.h>

#define FM_PLAN_MAGIC UINT64_C(0x4e414c50414c4d46) /* "FMLAPLAN", little endian */
enum { FM_PLAN_LAYOUT = 3 /* goes up with every change of fm_plan_stamp or of the schedule's layout */ };

_Static_assert(sizeof(fm_plan_stamp) <= sizeof(flashmla_plan), "the stamp must fit the opaque plan");
_Static_assert(offsetof(fm_plan_stamp, check) == 16 + (8 + FM_PLAN_FACTS) * sizeof(int32_t) + 8,
               "no padding: the check covers it all");

/* The call's side of the comparison, without what is the plan's own. */
static fm_plan_stamp stamp_of(const fm_plan_kind *kind, const fm_call *call, const int32_t *facts) {
  fm_plan_stamp stamp = {.magic = FM_PLAN_MAGIC,
                         .layout = FM_PLAN_LAYOUT,
                         .operation = kind->operation,
                         .cuda = call->cuda,
                         .device_id = call->device_id,
                         .varlen = call->form.varlen};
  memcpy(stamp.facts, facts, sizeof *facts * (size_t)kind->num_facts);
  return stamp;
}

/* FNV-1a (Fowler, Noll, Vo) over 64-bit words: each step is invertible, so one changed word always changes the result.
 */
static uint64_t check_of(const fm_plan_stamp *stamp) {
  uint64_t words[offsetof(fm_plan_stamp, check) / sizeof(uint64_t)], hash = UINT64_C(0xcbf29ce484222325);
  memcpy(words, stamp, sizeof words);
  for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i) hash = (hash ^ words[i]) * UINT64_C(0x100000001b3);
  return hash;
}

void fm_stamp_plan(const fm_plan_kind *kind, const fm_call *call, const int32_t *facts, const fm_work *work,
                   const fm_tiling *tiling, void *buffer, flashmla_plan *plan) {
  fm_plan_stamp stamp = stamp_of(kind, call, facts);
  stamp.batch_invariant = work->batch_invariant;
  stamp.num_splits = tiling->num_splits;
  stamp.cluster = tiling->cluster;
  stamp.num_tiles = tiling->num_tiles;
  stamp.num_parts = tiling->num_parts;
  stamp.buffer = (uint64_t)(uintptr_t)buffer;
  stamp.check = check_of(&stamp);
  memset(plan, 0, sizeof *plan);
  memcpy(plan, &stamp, sizeof stamp);
}

static const char *device_name(int32_t cuda) { return cuda ? "cuda" : "cpu"; }

static flashmla_status check_fact(const fm_fact *fact, bool varlen, int32_t planned, int32_t given) {
  if (planned == given) return FLASHMLA_OK;
  const char *argument = varlen ? fact->varlen_argument : fact->argument;
  if (fact->dtype)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for %s %s, %s is %s", fact->name,
                   fm_dtype_name(planned), argument, fm_dtype_name(given));
  return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for %s %d, %s is %d", fact->name, planned, argument,
                 given);
}

flashmla_status fm_read_plan(const fm_plan_kind *kind, const flashmla_plan *plan, const fm_call *call,
                             const int32_t *facts, fm_plan_stamp *stamp) {
  const fm_plan_stamp wanted = stamp_of(kind, call, facts);
  fm_plan_stamp made;
  memcpy(&made, plan, sizeof made);
  if (made.magic != wanted.magic)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was never made; flashmla_plan_decode must fill it first");
  if (made.layout != wanted.layout)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made by another version of the library: layout %u, not %u",
                   made.layout, wanted.layout);
  if (made.operation != wanted.operation)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for operation %u, %s is %u", made.operation, kind->name,
                   wanted.operation);
  if (made.check != check_of(&made))
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH,
                   "plan is damaged: its content changed after flashmla_plan_decode filled it");
  if (made.cuda != wanted.cuda || made.device_id != wanted.device_id)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for device %s:%d, q is on %s:%d",
                   device_name(made.cuda), made.device_id, device_name(wanted.cuda), wanted.device_id);
  if (made.varlen != wanted.varlen)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made %s cu_seqlens_q, the call is %s it",
                   made.varlen ? "with" : "without", wanted.varlen ? "with" : "without");
  for (int32_t i = 0; i < kind->num_facts; ++i)
    FM_TRY(check_fact(&kind->facts[i], wanted.varlen, made.facts[i], wanted.facts[i]));
  *stamp = made;
  return FLASHMLA_OK;
}

flashmla_status fm_check_plan_tiling(const fm_plan_stamp *stamp, const fm_tiling *tiling) {
  if (stamp->num_parts != tiling->num_parts)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for %d parts, the call has %d on this device",
                   stamp->num_parts, tiling->num_parts);
  if (stamp->num_tiles != tiling->num_tiles || stamp->cluster != tiling->cluster)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH,
                   "plan was made for %d tiles of %d row blocks, the call's kernel has %d of %d", stamp->num_tiles,
                   stamp->cluster, tiling->num_tiles, tiling->cluster);
  return FLASHMLA_OK;
}
