/* check.c - whether a schedule in a caller's host memory, which may have been overwritten, is one that can be followed:
 * nothing in it leads outside the tiles and the partial slots. */
#include "schedule/items.h"

/* `what`: the first that is wrong. */
static flashmla_status fail_overwritten(fm_text what) {
  return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH,
                 "the plan's buffer no longer holds its schedule (%s): it was overwritten, or is that of another plan; "
                 "make the plan again",
                 what.chars);
}

static bool is_before(fm_cut a, fm_cut b) { return a.tile < b.tile || (a.tile == b.tile && a.unit < b.unit); }

static bool is_begin_of_item(const fm_tiling *tiling, int32_t unit, int32_t level) {
  if (unit % tiling->piece_units != 0) return false;
  const int64_t quantum = unit / tiling->piece_units;
  return fm_piece_begin(fm_first_piece(fm_item_of(fm_piece_at(quantum), level), level)) == quantum;
}

static flashmla_status check_cuts(const fm_work *work, const fm_tiling *tiling, fm_schedule schedule, int32_t level) {
  const fm_cut begin = {0, 0}, end = {tiling->num_tiles, 0};
  const bool may_split = fm_may_split(tiling);
  for (int32_t w = 0; w <= tiling->num_parts; ++w) {
    const fm_cut cut = schedule.cuts[w], before = w > 0 ? schedule.cuts[w - 1] : begin;
    const bool in_order = cut.unit >= 0 && cut.unit <= fm_most_units(work, tiling->unit) && !is_before(cut, before) &&
                          !is_before(end, cut);
    const bool complete = (w > 0 || !is_before(begin, cut)) && (w < tiling->num_parts || !is_before(cut, end));
    const bool two_pieces = cut.unit != 0 && before.unit != 0 && cut.tile != before.tile;
    const bool one_slot = tiling->piece_units == 0 && tiling->slots_per_part == 1;
    const bool between = tiling->piece_units == 0 || (in_order && is_begin_of_item(tiling, cut.unit, level));
    if (!in_order || !complete || (cut.unit != 0 && !may_split) || (two_pieces && one_slot) || !between)
      return fail_overwritten(
          fm_text_of("entry %d of %d is tile %d, unit %d", w, tiling->num_parts + 1, cut.tile, cut.unit));
  }
  return FLASHMLA_OK;
}

/* Items of a part: as many as there are between its cuts, and at least one up to the end of a tile. */
static bool has_its_slots(const fm_tiling *tiling, fm_schedule schedule, int32_t part) {
  const int32_t first = schedule.first_slot[part], end = schedule.first_slot[part + 1];
  if (first < 0 || end < first) return false;
  const fm_items run = fm_first_items(tiling, schedule, part), last = fm_last_items(tiling, schedule, part);
  const fm_cut from = schedule.cuts[part], to = schedule.cuts[part + 1];
  if (from.unit == 0) return end - first == last.count;
  if (run.ends) return run.count > 0;
  const int32_t p = tiling->piece_units;
  return run.count == fm_items_between(from.unit / p, to.unit / p, fm_level(tiling, schedule));
}

static flashmla_status check_slots(const fm_tiling *tiling, fm_schedule schedule) {
  const int32_t parts = tiling->num_parts, *first_slot = schedule.first_slot;
  const int64_t carries = (int64_t)tiling->carries * parts, most = fm_max64(tiling->slots, carries);
  int32_t wrong = first_slot[0] == carries ? -1 : 0;
  for (int32_t w = 0; w < parts && wrong < 0; ++w)
    if (first_slot[w + 1] > most || !has_its_slots(tiling, schedule, w)) wrong = w + 1;
  if (wrong < 0) return FLASHMLA_OK;
  return fail_overwritten(
      fm_text_of("entry %d of %d begins at slot %d of %d", wrong, parts + 1, first_slot[wrong], (int32_t)most));
}

flashmla_status fm_check_schedule(const fm_work *work, const fm_tiling *tiling, fm_schedule schedule) {
  if (tiling->piece_units == 0) return check_cuts(work, tiling, schedule, 0);
  const int32_t level = schedule.first_slot[tiling->num_parts + 1];
  if (level < 0 || level >= FM_LEVELS) return fail_overwritten(fm_text_of("its level is %d", level));
  FM_TRY(check_cuts(work, tiling, schedule, level));
  return check_slots(tiling, schedule);
}
