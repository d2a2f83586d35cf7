/* find.c - the entry of a table that is for a call. */
#include "tuning/tuning.h"

static int compare(const int32_t *a, const int32_t *b, int32_t count) {
  for (int32_t i = 0; i < count; ++i)
    if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
  return 0;
}

/* The first entry whose first `count` values are not below those. */
static int32_t first_of(const fm_tuning *table, const int32_t *key, int32_t count) {
  int32_t low = 0, high = table->count;
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (compare(table->entries[middle].value, key, count) < 0)
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
  const int32_t keys = shape->any_format ? FM_TUNING_KV_FORMAT : FM_TUNING_KEYS;
  fm_tuned found = {.found = false};
  for (int32_t i = first_of(table, shape->key, keys); i < table->count; ++i) {
    const fm_tuning_entry *entry = &table->entries[i];
    if (compare(entry->value, shape->key, keys) != 0) break;
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
