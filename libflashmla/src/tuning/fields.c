/* fields.c - see fields.h. */
#include "tuning/fields.h"

#include <stdio.h>
#include <string.h>

#include "core/dtype.h"
#include "core/operation.h"
#include "cuda/kernels.h"
#include "formats/formats.h"
#include "schedule/schedule.h"

/* A list of words: by number, NULL behind the last. */
typedef const char *words_at(int32_t number);

static const char *operation_at(int32_t number) {
  const fm_operation *operation = fm_operation_at(number);
  return operation != NULL ? operation->name : NULL;
}

static const char *dtype_at(int32_t number) { return number < FM_DTYPES ? fm_dtype_name(number) : NULL; }

static const char *format_at(int32_t number) {
  const fm_format *format = fm_format_at(number);
  return format != NULL ? format->name : NULL;
}

static const char *kernel_at(int32_t number) {
  if (number == 0) return "-";
  if (number > fm_cuda_kernel_count()) return NULL;
  flashmla_kernel_info row;
  fm_cuda_kernel_at(number - 1, &row);
  return row.name;
}

static const char *policy_at(int32_t number) {
  static const char *const names[] = {
      [FLASHMLA_L2_RULE] = "rule", [FLASHMLA_L2_EVICT_NORMAL] = "normal", [FLASHMLA_L2_EVICT_FIRST] = "first"};
  return number < (int32_t)(sizeof names / sizeof names[0]) ? names[number] : NULL;
}

static const struct field {
  const char *name;
  size_t offset;   /* in flashmla_tuning_entry */
  words_at *words; /* NULL: a number, in [least, most] */
  bool text;       /* callers have the word, else its number */
  int32_t least, most;
} fields[FM_TUNING_FIELDS] = {
#define FM_NUMBER(field, low, high) \
  {#field, offsetof(flashmla_tuning_entry, field), NULL, .text = false, .least = low, .most = high}
#define FM_WORD(field, list, is_text) \
  {#field, offsetof(flashmla_tuning_entry, field), list, .text = is_text, .least = 0, .most = 0}
    [FM_TUNING_OPERATION] = FM_WORD(operation, operation_at, true),
    [FM_TUNING_DTYPE] = FM_WORD(dtype, dtype_at, true),
    [FM_TUNING_D_QK] = FM_NUMBER(d_qk, 1, INT32_MAX),
    [FM_TUNING_H_Q] = FM_NUMBER(h_q, 1, INT32_MAX),
    [FM_TUNING_H_KV] = FM_NUMBER(h_kv, 1, INT32_MAX),
    [FM_TUNING_S_Q] = FM_NUMBER(s_q, 1, INT32_MAX),
    [FM_TUNING_VARLEN] = FM_NUMBER(varlen, 0, 1),
    [FM_TUNING_PAGE_SIZE] = FM_NUMBER(page_size, 0, INT32_MAX),
    [FM_TUNING_WINDOW] = FM_NUMBER(window, 0, INT32_MAX),
    [FM_TUNING_EXTRA_TOPK] = FM_NUMBER(extra_topk, 0, INT32_MAX),
    [FM_TUNING_KV_FORMAT] = FM_WORD(kv_format, format_at, false),
    [FM_TUNING_BATCH_FROM] = FM_NUMBER(batch_from, 1, INT32_MAX),
    [FM_TUNING_BATCH_TO] = FM_NUMBER(batch_to, 1, INT32_MAX),
    [FM_TUNING_CAPACITY_FROM] = FM_NUMBER(capacity_from, 0, INT32_MAX),
    [FM_TUNING_CAPACITY_TO] = FM_NUMBER(capacity_to, 0, INT32_MAX),
    [FM_TUNING_KERNEL] = FM_WORD(kernel, kernel_at, true),
    [FM_TUNING_NUM_SPLITS] = FM_NUMBER(num_splits, 0, FM_MAX_SPLITS),
    [FM_TUNING_L2_POLICY] = FM_WORD(l2_policy, policy_at, false),
    [FM_TUNING_NS] = FM_NUMBER(ns, 0, INT32_MAX),
    [FM_TUNING_DEFAULT_NS] = FM_NUMBER(default_ns, 0, INT32_MAX),
#undef FM_NUMBER
#undef FM_WORD
};

static int32_t word_of(int32_t field, const char *word, size_t length) {
  const char *found;
  for (int32_t number = 0; (found = fields[field].words(number)) != NULL; ++number)
    if (strlen(found) == length && memcmp(found, word, length) == 0) return number;
  return -1;
}

int32_t fm_tuning_word(int32_t field, const char *word) { return word_of(field, word, strlen(word)); }

const char *fm_tuning_field_name(int32_t field) { return field < FM_TUNING_FIELDS ? fields[field].name : "end"; }

/* Digits without a sign or a zero in front; -1 for anything else. */
static int64_t number_of(const char *text, size_t length) {
  int64_t number = 0;
  if (length == 0 || length > 10 || (length > 1 && text[0] == '0')) return -1;
  for (size_t i = 0; i < length; ++i) {
    if (text[i] < '0' || text[i] > '9') return -1;
    number = number * 10 + (text[i] - '0');
  }
  return number;
}

static bool is_in_range(int32_t field, int64_t number) {
  return number >= fields[field].least && number <= fields[field].most;
}

static bool read_value(int32_t field, const char *text, size_t length, int32_t *value) {
  if (fields[field].words != NULL) return (*value = word_of(field, text, length)) >= 0;
  const int64_t number = number_of(text, length);
  *value = (int32_t)number;
  return is_in_range(field, number);
}

size_t fm_least_tuning_line(void) {
  size_t bytes = 0;
  for (int32_t field = 0; field < FM_TUNING_FIELDS; ++field) bytes += strlen(fields[field].name) + strlen("=0");
  return bytes;
}

/* The field whose range is the wrong way round, or -1. */
static int32_t crossed(const fm_tuning_entry *entry) {
  if (entry->value[FM_TUNING_BATCH_TO] < entry->value[FM_TUNING_BATCH_FROM]) return FM_TUNING_BATCH_TO;
  if (entry->value[FM_TUNING_CAPACITY_TO] < entry->value[FM_TUNING_CAPACITY_FROM]) return FM_TUNING_CAPACITY_TO;
  return -1;
}

int32_t fm_read_tuning_line(const char *line, const char *end, fm_tuning_entry *entry) {
  for (int32_t field = 0; field < FM_TUNING_FIELDS; ++field) {
    const size_t name = strlen(fields[field].name);
    if ((size_t)(end - line) <= name || memcmp(line, fields[field].name, name) != 0 || line[name] != '=') return field;
    line += name + 1;
    const char *space = memchr(line, ' ', (size_t)(end - line)), *stop = space != NULL ? space : end;
    if (!read_value(field, line, (size_t)(stop - line), &entry->value[field])) return field;
    if ((space == NULL) != (field == FM_TUNING_FIELDS - 1)) return field + 1;
    line = space != NULL ? space + 1 : end;
  }
  return crossed(entry);
}

int32_t fm_write_tuning_line(const fm_tuning_entry *entry, char line[FM_TUNING_LINE_BYTES]) {
  int32_t used = 0;
  for (int32_t field = 0; field < FM_TUNING_FIELDS; ++field) {
    const int32_t value = entry->value[field];
    const size_t room = (size_t)(FM_TUNING_LINE_BYTES - used);
    used += snprintf(line + used, room, field > 0 ? " %s=" : "%s=", fields[field].name);
    const size_t left = (size_t)(FM_TUNING_LINE_BYTES - used);
    if (fields[field].words != NULL)
      used += snprintf(line + used, left, "%s", fields[field].words(value));
    else
      used += snprintf(line + used, left, "%d", value);
  }
  return used;
}

static flashmla_status take_text(const char *given, int32_t index, int32_t field, int32_t *value) {
  if (given == NULL && field == FM_TUNING_KERNEL) given = kernel_at(0);
  if (given == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "entries[%d].%s is NULL; it is required", index, fields[field].name);
  *value = fm_tuning_word(field, given);
  if (*value >= 0) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_VALUE, "entries[%d].%s is \"%.80s\", which this library does not know", index,
                 fields[field].name, given);
}

static flashmla_status take_number(int32_t given, int32_t index, int32_t field, int32_t *value) {
  const struct field *rule = &fields[field];
  *value = given;
  const bool known = rule->words != NULL ? given >= 0 && rule->words(given) != NULL : is_in_range(field, given);
  if (known) return FLASHMLA_OK;
  if (rule->words != NULL)
    return fm_fail(FLASHMLA_ERROR_VALUE, "entries[%d].%s is %d, which this library does not know", index, rule->name,
                   given);
  return fm_fail(FLASHMLA_ERROR_VALUE, "entries[%d].%s is %d; it must be in [%d, %d]", index, rule->name, given,
                 rule->least, rule->most);
}

flashmla_status fm_take_tuning_entry(const flashmla_tuning_entry *given, int32_t index, fm_tuning_entry *entry) {
  for (int32_t field = 0; field < FM_TUNING_FIELDS; ++field) {
    const char *at = (const char *)given + fields[field].offset, *text;
    int32_t number;
    if (fields[field].text) {
      memcpy(&text, at, sizeof text);
      FM_TRY(take_text(text, index, field, &entry->value[field]));
    } else {
      memcpy(&number, at, sizeof number);
      FM_TRY(take_number(number, index, field, &entry->value[field]));
    }
  }
  const int32_t wrong = crossed(entry);
  if (wrong < 0) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_VALUE, "entries[%d].%s is %d; it must be at least %s, %d", index, fields[wrong].name,
                 entry->value[wrong], fields[wrong - 1].name, entry->value[wrong - 1]);
}

void fm_give_tuning_entry(const fm_tuning_entry *entry, flashmla_tuning_entry *given) {
  for (int32_t field = 0; field < FM_TUNING_FIELDS; ++field) {
    char *at = (char *)given + fields[field].offset;
    const int32_t value = entry->value[field];
    const char *text = fields[field].text ? fields[field].words(value) : NULL;
    if (fields[field].text)
      memcpy(at, &text, sizeof text);
    else
      memcpy(at, &value, sizeof value);
  }
}
