/* Tuning files among threads, processes and what else a file system holds: writers of one name at once, links, pipes,
 * children that are forked while others ask. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "core/environment.h"
#include "core/log.h"
#include "fixture.h"

static char folder[] = "/tmp/flashmla-tuning-XXXXXX";
static char path[128], other[256];

static const flashmla_tuning_entry entry = {.struct_size = sizeof(flashmla_tuning_entry),
                                            .operation = "dense_decode",
                                            .dtype = "bfloat16",
                                            .d_qk = 576,
                                            .h_q = 6,
                                            .h_kv = 2,
                                            .s_q = 2,
                                            .page_size = 64,
                                            .batch_from = 1,
                                            .batch_to = 4,
                                            .capacity_to = 192};

enum { THREADS = 4, TURNS = 50, ENTRIES = 200 };

static void in_threads(void *work(void *)) {
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; ++i) CHECK(pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i) == 0);
  for (int i = 0; i < THREADS; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
}

/* Of its own number of entries, which the file has or another writer's. */
static void *write_and_read(void *number) {
  flashmla_tuning_entry *entries = malloc(ENTRIES * sizeof *entries);
  for (int i = 0; i < ENTRIES; ++i) entries[i] = entry, entries[i].d_qk = i + 1;
  for (int i = 0; i < TURNS; ++i) {
    CHECK_OK(flashmla_tuning_save(path, 0, entries, ENTRIES - (int32_t)(intptr_t)number));
    CHECK_OK(flashmla_tuning_load(path));
  }
  free(entries);
  return NULL;
}

static const char *told_paths[THREADS];
static pthread_barrier_t barrier;

static void *load_at_once(void *number) {
  flashmla_tuning_state state = FLASHMLA_TUNING_STATE_INIT;
  pthread_barrier_wait(&barrier);
  CHECK_OK(flashmla_tuning_load(path));
  CHECK_OK(flashmla_tuning_tell(-1, &state)); /* of this thread's table, or of another one's */
  told_paths[(intptr_t)number] = state.path;
  return NULL;
}

/* A path is told where its table has it. Tables that differ in the last entry take time to compare. */
static void of_one_content_there_is_one_table(void) {
  flashmla_tuning_entry entries[ENTRIES];
  for (int i = 0; i < ENTRIES; ++i) entries[i] = entry, entries[i].d_qk = i + 1;
  CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
  for (int turn = 0; turn < TURNS; ++turn) {
    entries[ENTRIES - 1].ns = turn + 1;
    CHECK_OK(flashmla_tuning_save(path, 0, entries, ENTRIES));
    in_threads(load_at_once);
    for (int i = 1; i < THREADS; ++i) CHECK(told_paths[i] == told_paths[0]);
  }
  pthread_barrier_destroy(&barrier);
}

/* The name beside the file that a writer of this process would take next is a link to something else. */
static void links_beside_lead_nowhere(void) {
  char victim[160];
  snprintf(victim, sizeof victim, "%s/victim", folder);
  CHECK(close(open(victim, O_CREAT | O_WRONLY, 0600)) == 0);
  snprintf(other, sizeof other, "%s.%ld", path, (long)getpid());
  CHECK(symlink(victim, other) == 0);
  for (unsigned i = 0; i < 2 * THREADS * TURNS; ++i) {
    char beside[320];
    snprintf(beside, sizeof beside, "%s.%u", other, i);
    CHECK(symlink(victim, beside) == 0);
  }
  (void)!flashmla_tuning_save(path, 0, &entry, 1); /* perhaps it finds no name */
  struct stat facts;
  CHECK(stat(victim, &facts) == 0 && facts.st_size == 0 && lstat(other, &facts) == 0 && S_ISLNK(facts.st_mode));
  for (unsigned i = 0; i < 2 * THREADS * TURNS; ++i) {
    char beside[320];
    snprintf(beside, sizeof beside, "%s.%u", other, i);
    CHECK(lstat(beside, &facts) == 0 && S_ISLNK(facts.st_mode) && remove(beside) == 0);
  }
  CHECK(remove(other) == 0 && remove(victim) == 0);
}

static void what_is_no_file_stays(void) {
  struct stat facts;
  snprintf(other, sizeof other, "%s/pipe", folder);
  CHECK(mkfifo(other, 0600) == 0);
  CHECK_STATUS(flashmla_tuning_save(other, 0, &entry, 1), FLASHMLA_ERROR_VALUE,
               "which cannot be written: it is no regular file");
  CHECK(lstat(other, &facts) == 0 && S_ISFIFO(facts.st_mode) && remove(other) == 0);
  CHECK_STATUS(flashmla_tuning_save(folder, 0, &entry, 1), FLASHMLA_ERROR_VALUE, "it is no regular file");
  CHECK_OK(flashmla_tuning_save(path, 0, NULL, 0));
  snprintf(other, sizeof other, "%s/link", folder);
  CHECK(symlink("tuned", other) == 0);
  CHECK_OK(flashmla_tuning_save(other, 0, &entry, 1));
  CHECK(lstat(other, &facts) == 0 && S_ISLNK(facts.st_mode) && remove(other) == 0);
  CHECK_OK(flashmla_tuning_load(path));
  flashmla_tuning_state state = FLASHMLA_TUNING_STATE_INIT;
  CHECK_OK(flashmla_tuning_tell(-1, &state));
  CHECK(state.count == 1);
  snprintf(other, sizeof other, "%s/loop", folder);
  CHECK(symlink("loop", other) == 0);
  CHECK_STATUS(flashmla_tuning_load(other), FLASHMLA_ERROR_STATE, "loop\" cannot be read: ");
  CHECK(remove(other) == 0);
}

static _Atomic(bool) done;

static void *ask(void *unused) {
  (void)unused;
  while (!atomic_load(&done)) {
    flashmla_tuning_state state = FLASHMLA_TUNING_STATE_INIT;
    CHECK_OK(flashmla_tuning_tell(0, &state));
    CHECK(strcmp(state.problem, "is no tuning file") == 0);
    flashmla_read_environment();
    fm_log_once("a line");
  }
  return NULL;
}

static void children_ask_too(void) {
  FILE *file = fopen(path, "wb");
  CHECK(file != NULL && fputs("nothing", file) >= 0 && fclose(file) == 0);
  setenv("FLASHMLA_TUNING", path, 1);
  flashmla_read_environment();
  pthread_t asking;
  CHECK(pthread_create(&asking, NULL, ask, NULL) == 0);
  for (int i = 0; i < 4 * TURNS; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      flashmla_tuning_state state = FLASHMLA_TUNING_STATE_INIT;
      alarm(20); /* which ends a child that waits for a lock that nobody has */
      flashmla_read_environment();
      fm_log_once("a line");
      _exit(flashmla_tuning_tell(0, &state) == FLASHMLA_OK ? 0 : 1);
    }
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  atomic_store(&done, true);
  CHECK(pthread_join(asking, NULL) == 0);
}

int main(void) {
  CHECK(mkdtemp(folder) != NULL);
  snprintf(path, sizeof path, "%s/tuned", folder);
  in_threads(write_and_read);
  of_one_content_there_is_one_table();
  links_beside_lead_nowhere();
  what_is_no_file_stays();
  children_ask_too();
  remove(path);
  CHECK(rmdir(folder) == 0);
  return 0;
}
