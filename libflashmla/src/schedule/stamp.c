/* stamp.c - writes and checks the stamp of a flashmla_plan. */
#include "schedule/stamp.h"

#include <string.h>

#define FM_PLAN_MAGIC UINT64_C(0x4e414c50414c4d46) /* "FMLAPLAN", little endian */
enum { FM_PLAN_LAYOUT = 8 /* goes up with every change of fm_plan_stamp or of the schedule's layout */ };

_Static_assert(sizeof(fm_plan_stamp) <= sizeof(flashmla_plan), "the stamp must fit the opaque plan");
_Static_assert(offsetof(fm_plan_stamp, check) == 16 + (8 + FM_PLAN_FACTS) * sizeof(int32_t) + 8,
               "no padding: the check covers it all");

/* FNV-1a (Fowler, Noll, Vo) over 64-bit words, whose upper bits also go into the lower ones, or a change of the top bit
 * would stay there and another one undo it. Each step is invertible, so one changed word always changes the result. */
static uint64_t check_of(const fm_plan_stamp *stamp) {
  uint64_t words[offsetof(fm_plan_stamp, check) / sizeof(uint64_t)], hash = UINT64_C(0xcbf29ce484222325);
  memcpy(words, stamp, sizeof words);
  for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i) {
    hash = (hash ^ words[i]) * UINT64_C(0x100000001b3);
    hash ^= hash >> 32;
  }
  return hash;
}

void fm_stamp_plan(const fm_plan_kind *kind, const fm_call *call, const int32_t *facts, const fm_work *work,
                   const fm_tiling *tiling, void *buffer, flashmla_plan *plan) {
  fm_plan_stamp stamp = {.magic = FM_PLAN_MAGIC,
                         .layout = FM_PLAN_LAYOUT,
                         .operation = kind->operation,
                         .cuda = call->cuda,
                         .device_id = call->device_id,
                         .varlen = call->form.varlen,
                         .batch_invariant = work->batch_invariant,
                         .full = work->full,
                         .num_splits = tiling->num_splits,
                         .cluster = tiling->cluster,
                         .num_tiles = tiling->num_tiles,
                         .num_parts = tiling->num_parts,
                         .buffer = (uint64_t)(uintptr_t)buffer};
  memcpy(stamp.facts, facts, sizeof *facts * (size_t)kind->num_facts);
  stamp.check = check_of(&stamp);
  memset(plan, 0, sizeof *plan);
  memcpy(plan, &stamp, sizeof stamp);
}

static flashmla_status check_option(const char *name, bool planned, bool given) {
  if (planned == given) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made %s %s, the call is %s it", planned ? "with" : "without",
                 fm_named(name).chars, given ? "with" : "without");
}

static flashmla_status check_fact(const fm_fact *fact, fm_form form, int32_t planned, int32_t given) {
  if (fact->option) return check_option(fact->name, planned, given);
  if (planned == given) return FLASHMLA_OK;
  const bool parted = form.parted && fact->parted_argument != NULL;
  const fm_text argument = fm_named(parted        ? fact->parted_argument
                                    : form.varlen ? fact->varlen_argument
                                                  : fact->argument);
  if (fact->dtype)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for %s %s, %s is %s", fact->name,
                   fm_dtype_name(planned), argument.chars, fm_dtype_name(given));
  return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for %s %d, %s is %d", fact->name, planned, argument.chars,
                 given);
}

flashmla_status fm_read_plan(const fm_plan_kind *kind, const flashmla_plan *plan, const fm_call *call,
                             const int32_t *facts, const fm_work *work, fm_plan_stamp *stamp) {
  memcpy(stamp, plan, sizeof *stamp);
  if (stamp->magic != FM_PLAN_MAGIC)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was never made; {flashmla_|}%s must fill it first", kind->maker);
  if (stamp->layout != FM_PLAN_LAYOUT)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made by another version of the library: layout %u, not %u",
                   stamp->layout, (uint32_t)FM_PLAN_LAYOUT);
  if (stamp->operation != kind->operation)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for another operation; %s takes one of {flashmla_|}%s",
                   kind->name, kind->maker);
  if (stamp->check != check_of(stamp))
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan is damaged: its content changed after {flashmla_|}%s filled it",
                   kind->maker);
  if (stamp->cuda != call->cuda || stamp->device_id != call->device_id)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for device %s, q is on %s",
                   fm_describe_device(stamp->cuda, stamp->device_id).chars,
                   fm_describe_device(call->cuda, call->device_id).chars);
  FM_TRY(check_option("cu_seqlens_q", stamp->varlen, call->form.varlen));
  FM_TRY(check_option("{FLASHMLA_BATCH_INVARIANT|batch_invariant}", stamp->batch_invariant, work->batch_invariant));
  for (int32_t i = 0; i < kind->num_facts; ++i)
    FM_TRY(check_fact(&kind->facts[i], call->form, stamp->facts[i], facts[i]));
  return FLASHMLA_OK;
}

flashmla_status fm_check_plan_tiling(const fm_plan_stamp *stamp, const fm_tiling *tiling) {
  if (stamp->cluster == tiling->cluster && stamp->num_tiles == tiling->num_tiles &&
      stamp->num_parts == tiling->num_parts && stamp->num_splits == tiling->num_splits)
    return FLASHMLA_OK;
  return fm_fail(
      FLASHMLA_ERROR_PLAN_MISMATCH,
      "plan was made for a kernel with %d tiles of %d row blocks in %d parts, the call's has %d of %d in %d; formats "
      "that quantise and others have plans of their own, as have calls with lengths and without, and "
      "FLASHMLA_FORCE_KERNEL must be as it was",
      stamp->num_tiles, stamp->cluster, stamp->num_parts, tiling->num_tiles, tiling->cluster, tiling->num_parts);
}
