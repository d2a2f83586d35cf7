/* file.c - the text of a tuning file: lines that say what it is and where it was measured, a line an entry, and a last
 * one with a checksum over all before it. Whatever is not written so is refused.
 *
 *   flashmla tuning 1
 *   gpu NVIDIA H100 80GB HBM3
 *   architecture 90
 *   processors 132
 *   driver 12040
 *   kernels 0123456789abcdef
 *   entry operation=dense_decode dtype=bfloat16 ...
 *   end fedcba9876543210
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/kernels.h"
#include "tuning/tuning.h"

#define TITLE "flashmla tuning "
#define ENTRY "entry "
#define END "end "
enum { END_BYTES = sizeof END - 1 + 16 + 1 /* of the last line */ };

/* FNV-1a (Fowler, Noll, Vo) over bytes: each step is invertible, so one changed byte always changes the result. */
static uint64_t checksum(const char *text, size_t bytes) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
  return hash;
}

static void write_end(const char *text, size_t bytes, char line[END_BYTES + 1]) {
  snprintf(line, END_BYTES + 1, END "%016llx\n", (unsigned long long)checksum(text, bytes));
}

typedef struct reader {
  const char *at, *end; /* behind the newline of the last line that is not the end line */
  int32_t line;
  fm_tuning *table;
} reader;

__attribute__((format(printf, 2, 3))) static bool refuse(fm_tuning *table, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(table->problem, sizeof table->problem, format, arguments);
  va_end(arguments);
  return false;
}

/* The next line if it begins so, without that. */
static bool next(reader *in, const char *begin, const char **line, const char **stop) {
  const size_t length = strlen(begin);
  if ((size_t)(in->end - in->at) < length || memcmp(in->at, begin, length) != 0) return false;
  *line = in->at + length;
  *stop = memchr(*line, '\n', (size_t)(in->end - *line));
  if (*stop == NULL) return false;
  in->at = *stop + 1;
  ++in->line;
  return true;
}

static bool next_text(reader *in, const char *begin, char *text, size_t size) {
  const char *line, *stop;
  const int32_t number = in->line + 1;
  if (!next(in, begin, &line, &stop) || (size_t)(stop - line) >= size || stop == line ||
      memchr(line, '\0', (size_t)(stop - line)) != NULL)
    return refuse(in->table, "has no %sin line %d", begin, number);
  memcpy(text, line, (size_t)(stop - line));
  text[stop - line] = '\0';
  return true;
}

static bool next_number(reader *in, const char *begin, int32_t *number) {
  char text[12], *end, again[12];
  if (!next_text(in, begin, text, sizeof text)) return false;
  const long long value = strtoll(text, &end, 10);
  snprintf(again, sizeof again, "%lld", value);
  if (value < 0 || value > INT32_MAX || strcmp(again, text) != 0)
    return refuse(in->table, "has no %sin line %d", begin, in->line);
  *number = (int32_t)value;
  return true;
}

static bool read_title(reader *in, size_t bytes) {
  char version[12];
  const size_t title = strlen(TITLE);
  if (bytes < title || memcmp(in->at, TITLE, title) != 0) return refuse(in->table, "is no tuning file");
  if (!next_text(in, TITLE, version, sizeof version)) return refuse(in->table, "is cut off: its last line is missing");
  char ours[12];
  snprintf(ours, sizeof ours, "%d", FM_TUNING_VERSION);
  if (strcmp(version, ours) == 0) return true;
  return refuse(in->table, "is of version %s; this library reads version %s", version, ours);
}

/* Of what comes before it, and nothing comes behind it. */
static bool check_end(reader *in, const char *text, size_t bytes) {
  const bool there = bytes > END_BYTES && text[bytes - 1] == '\n' && text[bytes - END_BYTES - 1] == '\n' &&
                     memcmp(text + bytes - END_BYTES, END, strlen(END)) == 0;
  if (!there) return refuse(in->table, "is cut off: its last line is missing");
  char line[END_BYTES + 1];
  write_end(text, bytes - END_BYTES, line);
  if (memcmp(line, text + bytes - END_BYTES, END_BYTES) != 0)
    return refuse(in->table, "is damaged: its last line is not the checksum of the others");
  in->end = text + bytes - END_BYTES;
  return true;
}

static bool read_keys(reader *in) {
  fm_tuning_machine *machine = &in->table->machine;
  char kernels[FM_TUNING_NAME_BYTES];
  if (!next_text(in, "gpu ", machine->gpu, sizeof machine->gpu) || !next_number(in, "architecture ", &machine->arch) ||
      !next_number(in, "processors ", &machine->processors) || !next_number(in, "driver ", &machine->driver) ||
      !next_text(in, "kernels ", kernels, sizeof kernels))
    return false;
  if (strcmp(kernels, fm_cuda_kernels_digest()) == 0) return true;
  return refuse(in->table, "is for kernels %.32s; this library has %s", kernels, fm_cuda_kernels_digest());
}

static bool read_entries(reader *in) {
  const char *line, *stop;
  while (in->at < in->end) {
    fm_tuning_entry entry; /* there is room for those that are right */
    if (!next(in, ENTRY, &line, &stop)) return refuse(in->table, "has no entry in line %d", in->line + 1);
    const int32_t wrong = fm_read_tuning_line(line, stop, &entry);
    if (wrong >= 0) return refuse(in->table, "has in line %d a wrong %s", in->line, fm_tuning_field_name(wrong));
    in->table->entries[in->table->count++] = entry;
  }
  return true;
}

static int by_values(const void *a, const void *b) {
  const int32_t *left = ((const fm_tuning_entry *)a)->value, *right = ((const fm_tuning_entry *)b)->value;
  for (int32_t i = 0; i < FM_TUNING_FIELDS; ++i)
    if (left[i] != right[i]) return left[i] < right[i] ? -1 : 1;
  return 0;
}

fm_tuning *fm_read_tuning(const char *path, const char *text, size_t bytes) {
  const size_t most = bytes / fm_least_tuning_line(), name = strlen(path) + 1;
  fm_tuning *table = calloc(1, sizeof(fm_tuning) + most * sizeof(fm_tuning_entry) + name);
  if (table == NULL) return NULL;
  reader in = {.at = text, .end = text + bytes, .table = table};
  if (!read_title(&in, bytes) || !check_end(&in, text, bytes) || !read_keys(&in) || !read_entries(&in))
    table->count = 0;
  qsort(table->entries, (size_t)table->count, sizeof table->entries[0], by_values);
  /* It stays: what is not needed of it does not. */
  const size_t used = sizeof(fm_tuning) + (size_t)table->count * sizeof(fm_tuning_entry);
  fm_tuning *shrunk = realloc(table, used + name);
  if (shrunk != NULL) table = shrunk;
  table->path = memcpy((char *)table + used, path, name);
  return table;
}

char *fm_tuning_text(const fm_tuning_machine *machine, const fm_tuning_entry *entries, int32_t count, size_t *bytes) {
  enum { HEAD_BYTES = 512 };
  const size_t most = HEAD_BYTES + (size_t)count * (sizeof ENTRY + FM_TUNING_LINE_BYTES) + END_BYTES;
  char *text = malloc(most + 1), line[FM_TUNING_LINE_BYTES];
  if (text == NULL) return NULL;
  size_t used = (size_t)snprintf(
      text, HEAD_BYTES, TITLE "%d\ngpu %s\narchitecture %d\nprocessors %d\ndriver %d\nkernels %s\n", FM_TUNING_VERSION,
      machine->gpu, machine->arch, machine->processors, machine->driver, fm_cuda_kernels_digest());
  for (int32_t i = 0; i < count; ++i) {
    fm_write_tuning_line(&entries[i], line);
    used += (size_t)snprintf(text + used, most - used, ENTRY "%s\n", line);
  }
  char end[END_BYTES + 1];
  write_end(text, used, end);
  memcpy(text + used, end, sizeof end);
  *bytes = used + END_BYTES;
  return text;
}
