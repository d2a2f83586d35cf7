/* plan_stamp.c - writes and checks the stamp of a flashmla_plan. */
#include "plan_stamp.h"

#include <stddef.h>
#include <string.h>

#define FM_PLAN_MAGIC UINT64_C(0x4e414c50414c4d46) /* "FMLAPLAN", little endian */
enum {
  FM_PLAN_LAYOUT = 2, /* goes up with every change of fm_plan_stamp or of the schedule's layout */
  FM_PLAN_DENSE_DECODE = 1
};

_Static_assert(sizeof(fm_plan_stamp) <= sizeof(flashmla_plan), "the stamp must fit the opaque plan");
_Static_assert(offsetof(fm_plan_stamp, check) == 16 + 18 * sizeof(int32_t) + 8, "no padding: the check covers it all");

/* The call's side of the comparison, without what is the plan's own. */
static fm_plan_stamp stamp_of(const fm_problem *problem) {
  return (fm_plan_stamp){.magic = FM_PLAN_MAGIC,
                         .layout = FM_PLAN_LAYOUT,
                         .operation = FM_PLAN_DENSE_DECODE,
                         .cuda = problem->cuda,
                         .device_id = problem->device_id,
                         .dtype = (int32_t)problem->dtype,
                         .causal = problem->causal,
                         .varlen = problem->varlen,
                         .batch = problem->batch,
                         .s_q = problem->s_q,
                         .h_q = problem->h_q,
                         .d_qk = problem->d_qk,
                         .num_blocks = problem->num_blocks,
                         .page_size = problem->page_size,
                         .h_kv = problem->h_kv,
                         .max_blocks = problem->max_blocks};
}

/* FNV-1a (Fowler, Noll, Vo) over 64-bit words: each step is invertible, so one changed word always changes the result.
 */
static uint64_t check_of(const fm_plan_stamp *stamp) {
  uint64_t words[offsetof(fm_plan_stamp, check) / sizeof(uint64_t)], hash = UINT64_C(0xcbf29ce484222325);
  memcpy(words, stamp, sizeof words);
  for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i) hash = (hash ^ words[i]) * UINT64_C(0x100000001b3);
  return hash;
}

void fm_stamp_plan(const fm_problem *problem, const fm_tiling *tiling, void *buffer, flashmla_plan *plan) {
  fm_plan_stamp stamp = stamp_of(problem);
  stamp.batch_invariant = problem->batch_invariant;
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

static const char *dtype_name(int32_t dtype) {
  static const char *const names[] = {[FM_BF16] = "bfloat16", [FM_FP16] = "float16", [FM_FP32] = "float32"};
  return names[dtype];
}

/* Fields compared as numbers, in this order, and where the call says them. */
static const struct {
  const char *name, *argument, *varlen_argument;
  size_t offset;
} fields[] = {
    {"causal", "the call's FLASHMLA_CAUSAL", "the call's FLASHMLA_CAUSAL", offsetof(fm_plan_stamp, causal)},
    {"batch", "q.shape[0]", "block_table.shape[0]", offsetof(fm_plan_stamp, batch)},
    {"s_q", "q.shape[1]", "params.max_seqlen_q", offsetof(fm_plan_stamp, s_q)},
    {"h_q", "q.shape[2]", "q.shape[1]", offsetof(fm_plan_stamp, h_q)},
    {"d_qk", "q.shape[3]", "q.shape[2]", offsetof(fm_plan_stamp, d_qk)},
    {"num_blocks", "kv_cache.shape[0]", "kv_cache.shape[0]", offsetof(fm_plan_stamp, num_blocks)},
    {"page_size", "kv_cache.shape[1]", "kv_cache.shape[1]", offsetof(fm_plan_stamp, page_size)},
    {"h_kv", "kv_cache.shape[2]", "kv_cache.shape[2]", offsetof(fm_plan_stamp, h_kv)},
    {"max_blocks", "block_table.shape[1]", "block_table.shape[1]", offsetof(fm_plan_stamp, max_blocks)},
};

flashmla_status fm_read_plan(const flashmla_plan *plan, const fm_problem *problem, fm_plan_stamp *stamp) {
  const fm_plan_stamp call = stamp_of(problem);
  fm_plan_stamp made;
  memcpy(&made, plan, sizeof made);
  if (made.magic != call.magic)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was never made; flashmla_plan_decode must fill it first");
  if (made.layout != call.layout)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made by another version of the library: layout %u, not %u",
                   made.layout, call.layout);
  if (made.operation != call.operation)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for operation %u, dense decode is %u", made.operation,
                   call.operation);
  if (made.check != check_of(&made))
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH,
                   "plan is damaged: its content changed after flashmla_plan_decode filled it");
  if (made.cuda != call.cuda || made.device_id != call.device_id)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for device %s:%d, q is on %s:%d",
                   device_name(made.cuda), made.device_id, device_name(call.cuda), call.device_id);
  if (made.dtype != call.dtype)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for dtype %s, q.dtype is %s", dtype_name(made.dtype),
                   dtype_name(call.dtype));
  if (made.varlen != call.varlen)
    return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made %s cu_seqlens_q, the call is %s it",
                   made.varlen ? "with" : "without", call.varlen ? "with" : "without");
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; ++i) {
    int32_t planned, given;
    memcpy(&planned, (const char *)&made + fields[i].offset, sizeof planned);
    memcpy(&given, (const char *)&call + fields[i].offset, sizeof given);
    if (planned != given)
      return fm_fail(FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made for %s %d, %s is %d", fields[i].name, planned,
                     call.varlen ? fields[i].varlen_argument : fields[i].argument, given);
  }
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
