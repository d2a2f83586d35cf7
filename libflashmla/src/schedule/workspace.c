/* workspace.c - byte layout of the two caller-owned buffers: the schedule and the workspace. */
#include "schedule/schedule.h"

static uint64_t round_up_16(uint64_t bytes) { return (bytes + 15) & ~UINT64_C(15); }

/* No product overflows: 2^31 slots of a few hundred rows of d_v floats stay below 2^51 bytes. */
flashmla_status fm_lay_out(const fm_work *work, const fm_tiling *tiling, int32_t d_v, bool own_plan,
                           fm_layout *layout) {
  /* Slots, up to two a part, and the integers of the cuts, two a part, are numbered in 32 bits; of work apart there are
   * cuts of the launches, too. */
  const int32_t log_parts = tiling->pieces_apart > 0 ? 28 : 30;
  if (tiling->num_parts >= 1 << log_parts)
    return fm_fail(FLASHMLA_ERROR_OVERFLOW,
                   "num_splits is %d, the work is cut into %d parts; there must be fewer than 2^%d", tiling->num_splits,
                   tiling->num_parts, log_parts);
  const uint64_t parts = (uint64_t)tiling->num_parts;
  const uint64_t of_kinds = tiling->pieces_apart > 0 ? parts + FM_ITEM_KINDS : 0;
  layout->plan_slots_offset = (parts + 1 + of_kinds) * sizeof(fm_cut);
  const uint64_t slots_bytes = tiling->piece_units > 0 ? (parts + 2) * sizeof(int32_t) : 0;
  layout->plan_cost_offset = round_up_16(layout->plan_slots_offset + slots_bytes);
  layout->plan_bytes = round_up_16(layout->plan_cost_offset + ((uint64_t)work->batch + 1) * sizeof(int64_t));

  const uint64_t rows = (uint64_t)fm_slots(tiling) * tiling->cluster * tiling->slot_rows;
  layout->partial_offset = own_plan ? layout->plan_bytes : 0;
  layout->partial_facts_offset = layout->partial_offset + rows * d_v * tiling->partial_bytes;
  layout->workspace_bytes = layout->partial_facts_offset + round_up_16(rows * tiling->partial_facts * sizeof(float));
  return FLASHMLA_OK;
}

fm_schedule fm_schedule_in(void *buffer, const fm_tiling *tiling, const fm_layout *layout) {
  char *bytes = buffer;
  int32_t *first_slot = tiling->piece_units > 0 ? (int32_t *)(bytes + layout->plan_slots_offset) : NULL;
  return (fm_schedule){buffer, first_slot, (int64_t *)(bytes + layout->plan_cost_offset)};
}

fm_partials fm_partials_in(void *workspace, const fm_layout *layout) {
  if (layout->workspace_bytes <= layout->partial_offset) return (fm_partials){NULL, NULL};
  char *bytes = workspace;
  return (fm_partials){bytes + layout->partial_offset, (float *)(bytes + layout->partial_facts_offset)};
}

fm_tiling fm_tiling_of_kind(const fm_tiling *tiling) {
  fm_tiling own = *tiling;
  own.num_parts /= FM_ITEM_KINDS;
  own.slots_per_part = FM_ITEM_KINDS;
  return own;
}

fm_cut *fm_cuts_of_kind(const fm_tiling *tiling, fm_schedule schedule, int32_t kind) {
  return schedule.cuts + tiling->num_parts + 1 + (int64_t)kind * (tiling->num_parts / FM_ITEM_KINDS + 1);
}

fm_partials fm_partials_of_kind(const fm_tiling *tiling, int32_t d_v, fm_partials partials, int32_t kind) {
  const int64_t rows = (int64_t)kind * tiling->cluster * tiling->slot_rows;
  return (fm_partials){(char *)partials.rows + rows * d_v * tiling->partial_bytes,
                       partials.facts + rows * tiling->partial_facts};
}

int64_t fm_partial_slot(const fm_tiling *tiling, int32_t part, bool begins) {
  return (int64_t)tiling->slots_per_part * part + (begins ? tiling->slots_per_part - 1 : 0);
}
