/* Calls ask the tuning file that is loaded, by name or by the variable, and loading goes on beside them. A refused file
 * changes no call. */
#include <pthread.h>

#include "core/environment.h"
#include "fake_backend.h"
#include "fixture.h"
#include "tuning_files.h"

/* The splits of the fake's last decode call on a device, or of its plan. */
static int32_t decoded(fixture *f) {
  fixture_allocate_workspace(f);
  CHECK_OK(flashmla_dense_decode(&f->decode));
  return fake.decode.attention.tiling.num_splits;
}

static void calls_ask_it(void) {
  fixture f;
  fixture_init(&f, SMALL);
  fixture_set_device(&f, kDLCUDA, 1);
  fake.limits.max_cluster = 1;
  CHECK_OK(flashmla_tuning_load(NULL));
  const int32_t plain = decoded(&f);
  flashmla_tuning_entry entry = dense;
  entry.num_splits = 2;
  CHECK_OK(flashmla_tuning_save(path, 0, &entry, 1));
  CHECK_OK(flashmla_tuning_load(path));
  CHECK(plain != 2 && decoded(&f) == 2 && fake.decode.attention.tuned.found);
  fixture_use_plan(&f, 0);
  CHECK(decoded(&f) == 2);
  fixture_use_plan(&f, 3);
  CHECK(decoded(&f) == 3);
  f.decode.plan = NULL;
  f.decode.flags |= FLASHMLA_BATCH_INVARIANT;
  CHECK(decoded(&f) != 2 && !fake.decode.attention.tuned.found);
  f.decode.flags &= ~(uint32_t)FLASHMLA_BATCH_INVARIANT;
  fake.driver = 12050; /* the machine got another driver: a new process refuses it, and calls are as without */
  setenv("FLASHMLA_TUNING", path, 1);
  flashmla_read_environment();
  CHECK(decoded(&f) == plain && strstr(told(1).problem, "is for Fake GPU with driver 12040; device 1 is ") != NULL);
  CHECK(told(-1).problem[0] == '\0' && flashmla_environment_error()[0] == '\0');
  fake.driver = 12040;
  CHECK(decoded(&f) == 2);
  fixture_set_device(&f, kDLCPU, 0);
  CHECK(decoded(&f) == plain);
  fixture_free(&f);
}

static void the_variable(void) {
  CHECK_OK(flashmla_tuning_save(path, 0, &dense, 1));
  setenv("FLASHMLA_TUNING", path, 1);
  flashmla_read_environment();
  CHECK(told(0).count == 1 && flashmla_environment_error()[0] == '\0');
  write_file(other, "nothing", 7);
  setenv("FLASHMLA_TUNING", other, 1);
  flashmla_read_environment();
  CHECK(told(0).count == 0 && strcmp(told(0).problem, "is no tuning file") == 0);
  CHECK(strstr(flashmla_environment_error(), "FLASHMLA_TUNING is \"/tmp/") != NULL);
  CHECK(strstr(flashmla_environment_error(), "\", which is no tuning file") != NULL);
  unsetenv("FLASHMLA_TUNING");
  flashmla_read_environment();
  CHECK(told(0).path[0] == '\0' && flashmla_environment_error()[0] == '\0');
  CHECK_OK(flashmla_tuning_load(path));
  flashmla_read_environment(); /* which names none, as before: what was loaded stays */
  CHECK(told(0).count == 1);
}

static _Atomic(bool) done;

static void *call(void *argument) {
  fixture f;
  (void)argument;
  fixture_init(&f, SMALL);
  while (!atomic_load(&done)) {
    uint64_t bytes;
    fixture_set_device(&f, kDLCUDA, 0);
    CHECK_OK(flashmla_dense_decode_workspace_size(&f.decode, &bytes));
    flashmla_tuning_state state = FLASHMLA_TUNING_STATE_INIT;
    CHECK_OK(flashmla_tuning_tell(0, &state));
    CHECK(state.problem[0] == '\0');
  }
  fixture_set_device(&f, kDLCPU, 0);
  fixture_free(&f);
  return NULL;
}

static void beside_calls(void) {
  enum { CALLERS = 3, TURNS = 300 };
  pthread_t callers[CALLERS];
  flashmla_tuning_entry entry = dense;
  entry.num_splits = 7;
  CHECK_OK(flashmla_tuning_save(other, 0, &entry, 1));
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_create(&callers[i], NULL, call, NULL) == 0);
  for (int i = 0; i < TURNS; ++i) {
    const char *const names[] = {path, other, NULL};
    CHECK_OK(flashmla_tuning_load(names[i % 3]));
  }
  atomic_store(&done, true);
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_join(callers[i], NULL) == 0);
}

int main(void) {
  make_folder();
  calls_ask_it();
  the_variable();
  beside_calls();
  remove_folder();
  return 0;
}
