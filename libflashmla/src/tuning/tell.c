/* tell.c - entry points that tell what is loaded, and the one that writes a file. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/environment.h"
#include "core/params.h"
#include "cuda/kernels.h"
#include "tuning/tuning.h"

static const uint16_t state_ends[] = {FM_END(flashmla_tuning_state, kernels)};
static const fm_struct state_struct = FM_STRUCT("state", flashmla_tuning_state, state_ends);
static const uint16_t entry_ends[] = {FM_END(flashmla_tuning_entry, default_ns)};
static const fm_struct entry_struct = FM_STRUCT("entry", flashmla_tuning_entry, entry_ends);
static const fm_struct first_struct = FM_STRUCT("entries[0]", flashmla_tuning_entry, entry_ends);

/* Why calls on a device do not ask the table; "": they do. */
static const char *problem_of(const fm_tuning *table, int32_t device_id) {
  fm_tuning_machine machine;
  if (table->problem[0] != '\0') return fm_keep_text(table->problem);
  if (device_id < 0 || fm_tuning_fits(table, device_id)) return "";
  if (fm_tuning_machine_of("device_id", device_id, &machine) != FLASHMLA_OK) return fm_keep_text(flashmla_last_error());
  char text[2 * FM_TUNING_PROBLEM_BYTES] = "is for ";
  fm_describe_tuning_machine(&table->machine, text + strlen(text), FM_TUNING_PROBLEM_BYTES);
  const size_t used = strlen(text);
  const int32_t begun = snprintf(text + used, sizeof text - used, "; device %d is ", device_id);
  fm_describe_tuning_machine(&machine, text + used + begun, sizeof text - used - (size_t)begun);
  return fm_keep_text(text);
}

flashmla_status flashmla_tuning_tell(int32_t device_id, flashmla_tuning_state *state) {
  if (state == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "state is NULL; what is told goes there");
  uint32_t size;
  FM_TRY(fm_read_struct_size(state, &state_struct, &size));
  const fm_tuning *table = fm_tuning_now();
  flashmla_tuning_state found = {.struct_size = size, .path = "", .problem = "", .gpu = ""};
  found.kernels = fm_cuda_kernels_digest();
  if (table != NULL) {
    found.path = table->path;
    found.problem = problem_of(table, device_id);
    found.gpu = table->machine.gpu;
    found.count = table->count;
    if (found.problem == NULL) return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "no memory for a sentence");
  }
  memset((char *)state + sizeof found, 0, size - sizeof found);
  memcpy(state, &found, sizeof found);
  return FLASHMLA_OK;
}

flashmla_status flashmla_tuning_at(int32_t index, flashmla_tuning_entry *entry) {
  if (entry == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "entry is NULL; it goes there");
  uint32_t size;
  FM_TRY(fm_read_struct_size(entry, &entry_struct, &size));
  const fm_tuning *table = fm_tuning_now();
  const int32_t count = table != NULL ? table->count : 0;
  if (index < 0 || index >= count)
    return fm_fail(FLASHMLA_ERROR_VALUE, "index is %d; it must be in [0, %d)", index, count);
  memset(entry, 0, size);
  entry->struct_size = size;
  fm_give_tuning_entry(&table->entries[index], entry);
  return FLASHMLA_OK;
}

static flashmla_status not_written(const char *path, const char *why) {
  return fm_fail(FLASHMLA_ERROR_VALUE, "path is \"%.120s\", which cannot be written: %.120s", path, why);
}

/* A new file, which no other thread or process has, and no link leads elsewhere; NULL with errno. */
static FILE *make_beside(const char *name, char *beside, size_t size) {
  static _Atomic(uint32_t) made;
  enum { TRIES = 100 }; /* names that a process left behind which is gone */
  int file = -1;
  for (int32_t i = 0; i < TRIES && file < 0 && (i == 0 || errno == EEXIST); ++i) {
    snprintf(beside, size, "%s.%ld.%u", name, (long)getpid(), atomic_fetch_add(&made, 1));
    file = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  }
  FILE *stream = file >= 0 ? fdopen(file, "wb") : NULL;
  if (file >= 0 && stream == NULL) {
    close(file);
    remove(beside);
  }
  return stream;
}

/* In a file of its own first: who reads finds all of the old text or all of the new one. */
static flashmla_status write_file(const char *path, const char *text, size_t bytes) {
  struct stat facts;
  if (stat(path, &facts) == 0 && !S_ISREG(facts.st_mode)) return not_written(path, "it is no regular file");
  char *target = realpath(path, NULL); /* a link stays one */
  const char *name = target != NULL ? target : path;
  const size_t size = strlen(name) + 64;
  char *beside = malloc(size);
  FILE *file = beside != NULL ? make_beside(name, beside, size) : NULL;
  bool written = file != NULL && fwrite(text, 1, bytes, file) == bytes;
  if (file != NULL) written = fclose(file) == 0 && written;
  written = written && rename(beside, name) == 0;
  const int why = errno;
  if (!written && file != NULL) remove(beside);
  free(beside);
  free(target);
  return written ? FLASHMLA_OK : not_written(path, strerror(why));
}

static flashmla_status take_entries(const flashmla_tuning_entry *entries, int32_t count, fm_tuning_entry *taken) {
  uint32_t size = 0;
  for (int32_t i = 0; i < count; ++i) {
    const flashmla_tuning_entry *given = (const void *)((const char *)entries + (size_t)size * (size_t)i);
    if (i == 0) FM_TRY(fm_read_struct_size(given, &first_struct, &size));
    const uint32_t later = fm_used_behind(given, &first_struct, size);
    if (later != 0)
      return fm_fail(FLASHMLA_ERROR_STRUCT_SIZE,
                     "entries[%d] has byte %u, which is not 0; this library knows %u bytes, later ones must be 0", i,
                     later, first_struct.size);
    FM_TRY(fm_take_tuning_entry(given, i, &taken[i]));
  }
  return FLASHMLA_OK;
}

flashmla_status flashmla_tuning_save(const char *path, int32_t device_id, const flashmla_tuning_entry *entries,
                                     int32_t count) {
  if (path == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "path is NULL; the file's name is required");
  if (count < 0 || count > FM_TUNING_MOST_ENTRIES)
    return fm_fail(FLASHMLA_ERROR_VALUE, "count is %d; it must be in [0, %d]", count, FM_TUNING_MOST_ENTRIES);
  if (entries == NULL && count > 0) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "entries is NULL; they are required");
  fm_tuning_machine machine;
  FM_TRY(fm_tuning_machine_of("device_id", device_id, &machine));
  fm_tuning_entry *taken = malloc(((size_t)count + 1) * sizeof *taken);
  if (taken == NULL) return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "no memory for %d entries", count);
  flashmla_status status = take_entries(entries, count, taken);
  size_t bytes = 0;
  char *text = status == FLASHMLA_OK ? fm_tuning_text(&machine, taken, count, &bytes) : NULL;
  if (status == FLASHMLA_OK && text == NULL)
    status = fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "no memory for %d entries", count);
  if (status == FLASHMLA_OK) status = write_file(path, text, bytes);
  free(text);
  free(taken);
  return status;
}
