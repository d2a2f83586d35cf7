/* load.c - which table calls ask: that of the file that FLASHMLA_TUNING names, or of the one that was loaded since. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/environment.h"
#include "tuning/tuning.h"

static _Atomic(fm_tuning *) now, all;

const fm_tuning *fm_tuning_now(void) { return atomic_load_explicit(&now, memory_order_acquire); }

static bool is_same(const fm_tuning *a, const fm_tuning *b) {
  return strcmp(a->path, b->path) == 0 && strcmp(a->problem, b->problem) == 0 && a->count == b->count &&
         memcmp(&a->machine, &b->machine, sizeof a->machine) == 0 &&
         memcmp(a->entries, b->entries, (size_t)a->count * sizeof a->entries[0]) == 0;
}

/* The same table where it was there before; else this one, which stays. */
static fm_tuning *keep(fm_tuning *made) {
  fm_tuning *first = atomic_load(&all);
  const fm_tuning *looked_at = NULL; /* with those behind it */
  do {
    for (fm_tuning *known = first; known != looked_at; known = known->next)
      if (is_same(known, made)) {
        free(made);
        return known;
      }
    made->next = first;
    looked_at = first;
  } while (!atomic_compare_exchange_weak(&all, &first, made));
  return made;
}

/* The content of a file, and a NUL; NULL with the reason. */
static char *content_of(const char *path, size_t *bytes, char *problem, size_t size) {
  struct stat facts;
  const int file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* no pipe blocks */
  const char *why = NULL;
  char *text = NULL;
  *bytes = 0;
  if (file < 0 || fstat(file, &facts) != 0)
    why = strerror(errno);
  else if (!S_ISREG(facts.st_mode))
    why = "it is no regular file";
  else if (facts.st_size > FM_TUNING_MOST_BYTES)
    why = "it is larger than 16 MiB";
  else if ((text = malloc((size_t)facts.st_size + 1)) == NULL)
    why = strerror(ENOMEM);
  while (why == NULL && *bytes < (size_t)facts.st_size) {
    const ssize_t count = read(file, text + *bytes, (size_t)facts.st_size - *bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) why = strerror(errno);
    if (count <= 0) break;
    *bytes += (size_t)count;
  }
  if (file >= 0) close(file);
  if (why == NULL) return text;
  free(text);
  snprintf(problem, size, "cannot be read: %.160s", why);
  return NULL;
}

/* NULL: no memory. */
static fm_tuning *table_of(const char *path) {
  char problem[FM_TUNING_PROBLEM_BYTES];
  size_t bytes;
  char *text = content_of(path, &bytes, problem, sizeof problem);
  fm_tuning *made = fm_read_tuning(path, text != NULL ? text : "", bytes);
  if (made != NULL && text == NULL) memcpy(made->problem, problem, sizeof problem);
  free(text);
  return made != NULL ? keep(made) : NULL;
}

static flashmla_status refused(const fm_tuning *table) {
  return fm_fail(FLASHMLA_ERROR_STATE, "the tuning file \"%.120s\" %.180s", table->path, table->problem);
}

/* Of a machine that has devices the file must be for one. */
static flashmla_status check_devices(const fm_tuning *table) {
  fm_tuning_machine first;
  if (fm_tuning_machine_of("device_id", 0, &first) != FLASHMLA_OK) return FLASHMLA_OK;
  for (int32_t device = 0; device < FM_TUNING_DEVICES; ++device)
    if (fm_tuning_fits(table, device)) return FLASHMLA_OK;
  char measured[FM_TUNING_PROBLEM_BYTES], here[FM_TUNING_PROBLEM_BYTES];
  fm_describe_tuning_machine(&table->machine, measured, sizeof measured);
  fm_describe_tuning_machine(&first, here, sizeof here);
  return fm_fail(FLASHMLA_ERROR_STATE, "the tuning file \"%.100s\" is for %.95s; device 0 is %.95s", table->path,
                 measured, here);
}

flashmla_status flashmla_tuning_load(const char *path) {
  fm_tuning *table = NULL;
  if (path != NULL && path[0] != '\0') {
    table = table_of(path);
    if (table == NULL) return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "no memory for the tuning file");
    if (table->problem[0] != '\0') return refused(table);
    FM_TRY(check_devices(table));
  }
  atomic_store_explicit(&now, table, memory_order_release);
  return FLASHMLA_OK;
}

/* A variable that was not set and is not set leaves what was loaded by a call. */
static void take_tuning(const char *value, fm_text *problem) {
  static bool was_set;
  if (value == NULL && !was_set) return;
  was_set = value != NULL;
  fm_tuning *table = value != NULL ? table_of(value) : NULL;
  if (value != NULL && table == NULL) fm_append(problem, ", for which there is no memory");
  if (table != NULL && table->problem[0] != '\0') fm_append(problem, ", which %s", table->problem);
  atomic_store_explicit(&now, table, memory_order_release);
}

static const fm_variable tuning_variable = {"FLASHMLA_TUNING", take_tuning};
FM_VARIABLE(tuning_variable);
