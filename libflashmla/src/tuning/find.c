/* find.c - the entry of a table that is for a call. */
#include "tuning/tuning.h"

#include <string.h>

_Static_assert(FM_TUNING_BATCH_FROM == FM_TUNING_KEYS, "entries of a key are in the order of their batches");

static int compare(const int32_t *a, const int32_t *b, int32_t count) {
  for (int32_t i = 0; i < count; ++i)
    if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
  return 0;
}

/* The first entry whose first `count` values are not below those, or, `behind`, are above them. */
static int32_t bound(const fm_tuning *table, const int32_t *values, int32_t count, bool behind) {
  int32_t low = 0, high = table->count;
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (compare(table->entries[middle].value, values, count) < behind)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static bool covers(const fm_tuning_entry *entry, const fm_tuning_shape *shape) {
  return shape->batch >= entry->value[FM_TUNING_BATCH_FROM] && shape->batch <= entry->value[FM_TUNING_BATCH_TO] &&
         shape->capacity >= entry->value[FM_TUNING_CAPACITY_FROM] &&
         shape->capacity <= entry->value[FM_TUNING_CAPACITY_TO];
}

fm_tuned fm_find_tuned(const fm_tuning *table, const fm_tuning_shape *shape) {
  /* Of one format, those behind begin with larger batches. */
  const int32_t keys = shape->any_format ? FM_TUNING_KV_FORMAT : FM_TUNING_KEYS;
  int32_t last[FM_TUNING_KEYS + 1];
  memcpy(last, shape->key, sizeof shape->key);
  last[FM_TUNING_BATCH_FROM] = shape->batch;
  const int32_t end = bound(table, last, shape->any_format ? keys : FM_TUNING_BATCH_FROM + 1, true);
  fm_tuned found = {.found = false};
  for (int32_t i = bound(table, shape->key, keys, false); i < end; ++i) {
    const fm_tuning_entry *entry = &table->entries[i];
    if (!covers(entry, shape)) continue;
    if (found.found && found.num_splits != entry->value[FM_TUNING_NUM_SPLITS]) return (fm_tuned){.found = false};
    if (found.found) continue;
    found = (fm_tuned){.found = true,
                       .kernel = entry->value[FM_TUNING_KERNEL],
                       .num_splits = entry->value[FM_TUNING_NUM_SPLITS],
                       .l2_policy = entry->value[FM_TUNING_L2_POLICY]};
    if (!shape->any_format) return found;
  }
  return found;
}
