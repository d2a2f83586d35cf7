/* What a table says of a call, against a walk over all entries. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "tuning/tuning.h"

enum { MOST = 40, TABLES = 300, SHAPES = 200, VALUES = 3 };

static uint32_t state = 1;

static int32_t drawn(int32_t count) {
  state = state * 1664525U + 1013904223U;
  return (int32_t)((state >> 8) % (uint32_t)count);
}

static int by_values(const void *a, const void *b) {
  const int32_t *left = a, *right = b;
  for (int32_t i = 0; i < FM_TUNING_FIELDS; ++i)
    if (left[i] != right[i]) return left[i] < right[i] ? -1 : 1;
  return 0;
}

/* Few values of the last parts of the key and of the ranges, which overlap, so that much is alike. */
static void draw_table(fm_tuning *table) {
  table->count = drawn(MOST + 1);
  for (int32_t i = 0; i < table->count; ++i) {
    int32_t *value = table->entries[i].value;
    memset(value, 0, sizeof table->entries[i]);
    value[FM_TUNING_EXTRA_TOPK] = drawn(2), value[FM_TUNING_KV_FORMAT] = drawn(2);
    value[FM_TUNING_BATCH_FROM] = drawn(VALUES), value[FM_TUNING_CAPACITY_FROM] = drawn(VALUES);
    value[FM_TUNING_BATCH_TO] = value[FM_TUNING_BATCH_FROM] + drawn(VALUES);
    value[FM_TUNING_CAPACITY_TO] = value[FM_TUNING_CAPACITY_FROM] + drawn(VALUES);
    value[FM_TUNING_KERNEL] = drawn(VALUES), value[FM_TUNING_NUM_SPLITS] = drawn(2);
    value[FM_TUNING_L2_POLICY] = drawn(VALUES);
  }
  qsort(table->entries, (size_t)table->count, sizeof table->entries[0], by_values);
}

static bool is_of(const int32_t *value, const fm_tuning_shape *shape) {
  for (int32_t i = 0; i < FM_TUNING_KEYS; ++i)
    if (value[i] != shape->key[i] && !(i == FM_TUNING_KV_FORMAT && shape->any_format)) return false;
  return value[FM_TUNING_BATCH_FROM] <= shape->batch && shape->batch <= value[FM_TUNING_BATCH_TO] &&
         value[FM_TUNING_CAPACITY_FROM] <= shape->capacity && shape->capacity <= value[FM_TUNING_CAPACITY_TO];
}

/* The first one counts; where the format is not known, all that are of the shape have the same splits. */
static fm_tuned expected(const fm_tuning *table, const fm_tuning_shape *shape) {
  const int32_t *first = NULL;
  for (int32_t i = 0; i < table->count; ++i) {
    const int32_t *value = table->entries[i].value;
    if (!is_of(value, shape)) continue;
    if (first == NULL) first = value;
    if (shape->any_format && value[FM_TUNING_NUM_SPLITS] != first[FM_TUNING_NUM_SPLITS])
      return (fm_tuned){.found = false};
  }
  if (first == NULL) return (fm_tuned){.found = false};
  return (fm_tuned){true, first[FM_TUNING_KERNEL], first[FM_TUNING_NUM_SPLITS], first[FM_TUNING_L2_POLICY]};
}

int main(void) {
  fm_tuning *table = calloc(1, sizeof *table + MOST * sizeof table->entries[0]);
  int32_t found_ones = 0;
  for (int32_t i = 0; i < TABLES; ++i) {
    draw_table(table);
    for (int32_t k = 0; k < SHAPES; ++k) {
      fm_tuning_shape shape = {.any_format = drawn(2) == 1, .batch = drawn(2 * VALUES), .capacity = drawn(2 * VALUES)};
      shape.key[FM_TUNING_EXTRA_TOPK] = drawn(3), shape.key[FM_TUNING_KV_FORMAT] = drawn(3);
      const fm_tuned found = fm_find_tuned(table, &shape), right = expected(table, &shape);
      CHECK(found.found == right.found);
      if (!right.found) continue;
      CHECK(found.num_splits == right.num_splits && found.kernel == right.kernel && found.l2_policy == right.l2_policy);
      ++found_ones;
    }
  }
  CHECK(found_ones > TABLES * SHAPES / 10);
  free(table);
  return 0;
}
