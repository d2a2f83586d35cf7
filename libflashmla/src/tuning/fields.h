/* fields.h - what an entry of a tuning file says, field by field: one table for lines of a file, for the structs of
 * callers and for the search. */
#ifndef FLASHMLA_TUNING_FIELDS_H_
#define FLASHMLA_TUNING_FIELDS_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

/* In the order of a line. The first ones are the key, which a call has exactly; of it the format comes last, since
 * plans of sparse decode do not know it. */
enum {
  FM_TUNING_OPERATION,
  FM_TUNING_DTYPE,
  FM_TUNING_D_QK,
  FM_TUNING_H_Q,
  FM_TUNING_H_KV,
  FM_TUNING_S_Q,
  FM_TUNING_VARLEN,
  FM_TUNING_PAGE_SIZE,
  FM_TUNING_WINDOW,
  FM_TUNING_EXTRA_TOPK,
  FM_TUNING_KV_FORMAT,
  FM_TUNING_KEYS,
  FM_TUNING_BATCH_FROM = FM_TUNING_KEYS,
  FM_TUNING_BATCH_TO,
  FM_TUNING_CAPACITY_FROM,
  FM_TUNING_CAPACITY_TO,
  FM_TUNING_KERNEL,
  FM_TUNING_NUM_SPLITS,
  FM_TUNING_L2_POLICY,
  FM_TUNING_NS,
  FM_TUNING_DEFAULT_NS,
  FM_TUNING_FIELDS
};

/* Words by their numbers: those of fm_operation_at, fm_dtype, flashmla_kv_format and flashmla_l2_policy; of a kernel
 * its row of the table of GPU kernels and one more, 0 for none. */
typedef struct fm_tuning_entry {
  int32_t value[FM_TUNING_FIELDS];
} fm_tuning_entry;

/* Number of a word of a field; -1: there is no such word. */
int32_t fm_tuning_word(int32_t field, const char *word);
/* Reads "name=value name=value ...", all fields in their order and nothing else. The first field that is wrong, or
 * FM_TUNING_FIELDS for what is behind the last; -1: none is. */
int32_t fm_read_tuning_line(const char *line, const char *end, fm_tuning_entry *entry);
/* Bytes of a line at least. */
size_t fm_least_tuning_line(void);
const char *fm_tuning_field_name(int32_t field);
/* Writes it, at most FM_TUNING_LINE_BYTES with the NUL, and returns its length. */
enum { FM_TUNING_LINE_BYTES = 1024 };
int32_t fm_write_tuning_line(const fm_tuning_entry *entry, char line[FM_TUNING_LINE_BYTES]);

/* An entry as callers have it: there and back. What is wrong is named as `entries[index]`. */
flashmla_status fm_take_tuning_entry(const flashmla_tuning_entry *given, int32_t index, fm_tuning_entry *entry);
void fm_give_tuning_entry(const fm_tuning_entry *entry, flashmla_tuning_entry *given);

#endif /* FLASHMLA_TUNING_FIELDS_H_ */
