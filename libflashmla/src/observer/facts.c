/* facts.c - see facts.h. */
#include "observer/facts.h"

#include <stdio.h>
#include <string.h>

#include "core/arith.h"
#include "observer/observer.h"

/* Axes that a record tells, by name. */
static const struct shown {
  const char *axis;
  size_t offset;
} shown[] = {
#define FM_SHOWN(axis) {#axis, offsetof(flashmla_call_record, axis)}
    FM_SHOWN(batch), FM_SHOWN(s_q),       FM_SHOWN(total_q), FM_SHOWN(h_q),        FM_SHOWN(h_kv),      FM_SHOWN(d_qk),
    FM_SHOWN(d_v),   FM_SHOWN(page_size), FM_SHOWN(topk),    FM_SHOWN(num_tokens), FM_SHOWN(num_states)};

/* Where the axes of each operation are shown; 0: nowhere. */
static uint8_t places[FM_MOST_OPERATIONS][FM_MAX_AXES];
_Static_assert(sizeof(flashmla_call_record) <= UINT8_MAX, "an offset in it is a byte");

__attribute__((constructor)) static void find_places(void) {
  for (int32_t number = 0; number < FM_MOST_OPERATIONS && fm_operation_at(number) != NULL; ++number)
    for (int32_t axis = 0; axis < fm_operation_at(number)->num_axes; ++axis)
      for (size_t i = 0; i < sizeof shown / sizeof shown[0]; ++i) {
        const char *name = fm_operation_at(number)->axes[axis].name;
        if (name != NULL && strcmp(name, shown[i].axis) == 0) places[number][axis] = (uint8_t)shown[i].offset;
      }
}

static void show_extents(const fm_call *call, flashmla_call_record *record) {
  const uint8_t *places_of = places[fm_number_of(call->operation)];
  for (int32_t axis = 0; axis < call->operation->num_axes; ++axis)
    if (places_of[axis] != 0) memcpy((char *)record + places_of[axis], &call->extents[axis], sizeof(int32_t));
}

void fm_measure_tensors(fm_call *call) {
  const fm_tensors *tensors = &call->tensors;
  call->tensor_bytes = 0;
  call->main_dtype = fm_dtype_name((int32_t)fm_dtype_of(fm_tensor_at(tensors, 0, 0)->dtype));
  for (int32_t row = 0; row < tensors->count; ++row) {
    const fm_argument *rule = &tensors->rows[row];
    if (tensors->given[row] == NULL || rule->shape_only || rule->paged != 0) continue;
    uint64_t bytes = fm_tensor_at(tensors, row, 0)->dtype.bits / 8;
    for (int32_t axis = 0; axis < rule->rank; ++axis) bytes *= (uint64_t)call->extents[rule->axes[axis]];
    call->tensor_bytes += bytes * (uint64_t)fm_tensors_of(tensors, row);
  }
}

void fm_describe_call(const fm_call *call, const void *state, fm_facts *facts) {
  memset(facts, 0, sizeof *facts);
  flashmla_call_record *record = &facts->record;
  record->operation = call->operation->name;
  record->kernel = flashmla_last_kernel();
  record->dtype = call->main_dtype;
  record->device_id = call->cuda ? call->device_id : -1;
  record->flags = call->again ? FLASHMLA_CALL_PREPARED : 0;
  record->bytes = call->tensor_bytes;
  record->workspace_bytes = call->scratch_bytes;
  memcpy(&record->stream, call->params + call->operation->stream_offset, sizeof record->stream);
  show_extents(call, record);
  if (call->operation->describe != NULL) call->operation->describe(call, state, facts);
}

void fm_name_call(const fm_call *call, char *name, size_t size) {
  int used = snprintf(name, size, "%s", call->operation->name);
  const uint8_t *places_of = places[fm_number_of(call->operation)];
  for (int32_t axis = 0; axis < call->operation->num_axes; ++axis)
    if (places_of[axis] != 0 && call->extents[axis] != 0 && (size_t)used < size)
      used += snprintf(name + used, size - (size_t)used, " %s=%lld", call->operation->axes[axis].name,
                       (long long)call->extents[axis]);
  if ((size_t)used < size) snprintf(name + used, size - (size_t)used, " %s", call->main_dtype);
}

static int64_t counted(const fm_items_read *items, const int32_t *lengths) {
  if (items->lengths == NULL || lengths == NULL) return items->capacity * items->requests;
  int64_t sum = 0;
  for (int32_t i = 0; i < items->requests; ++i) sum += fm_clamp64(lengths[i], 0, items->capacity);
  return sum;
}

void fm_add_items(fm_facts *facts, const int32_t *const lengths[FM_ITEM_KINDS]) {
  flashmla_call_record *record = &facts->record;
  bool exact = true;
  for (int32_t kind = 0; kind < FM_ITEM_KINDS; ++kind) {
    const fm_items_read *items = &facts->items[kind];
    const int64_t count = counted(items, lengths[kind]);
    exact = exact && (items->lengths == NULL || lengths[kind] != NULL);
    record->tokens += count;
    record->bytes += (uint64_t)(count * items->bytes);
    record->flop += (uint64_t)(count * items->flop);
  }
  if (exact) record->flags |= FLASHMLA_CALL_COUNTED;
}
