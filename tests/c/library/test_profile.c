/* A profile that begins, ends and is read again and again while other threads call and metrics are told: nothing is
 * lost, told twice or torn. And what callers of an older or newer header get. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "check.h"
#include "fixture.h"

enum { CALLERS = 3, CALLS = 300, AT_ONCE = 16 };

static fixture shared;
static atomic_int callers_left = CALLERS;
static atomic_bool was_seen; /* a call, by a profile: callers go on until then */

static void *caller(void *unused) {
  uint64_t bytes;
  (void)unused;
  for (int i = 0; i < CALLS || !atomic_load(&was_seen); ++i) {
    flashmla_plan plan;
    flashmla_plan_decode_params params = shared.plan_params;
    params.buffer = aligned_alloc(16, params.buffer_size);
    CHECK_OK(flashmla_plan_decode(&params, &plan));
    CHECK_OK(flashmla_plan_decode_size(&params, &bytes));
    free(params.buffer);
  }
  atomic_fetch_sub(&callers_left, 1);
  return NULL;
}

/* Reads what there is; numbers follow one another, and records are whole. */
static uint64_t read_all(uint64_t next) {
  flashmla_call_record records[AT_ONCE];
  flashmla_profile_state state = FLASHMLA_PROFILE_STATE_INIT;
  do {
    records[0].struct_size = sizeof records[0];
    CHECK_OK(flashmla_profile_read(records, AT_ONCE, &state));
    for (int32_t i = 0; i < state.count; ++i) {
      CHECK(records[i].struct_size == sizeof records[i] && records[i].number == next++);
      CHECK(strcmp(records[i].operation, "plan_decode") == 0 && records[i].batch == 4 && records[i].h_q == 6);
      CHECK(records[i].device_id == -1 && records[i].host_ns >= 0 && records[i].device_ns == -1);
    }
  } while (state.count == AT_ONCE);
  CHECK(state.calls >= next && state.left <= state.calls - next && state.dropped == 0);
  return next;
}

static void begins_and_ends_beside_calls(void) {
  const flashmla_profile_options options = FLASHMLA_PROFILE_OPTIONS_INIT;
  pthread_t threads[CALLERS];
  char text[16384];
  uint64_t bytes, seen = 0;
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_create(&threads[i], NULL, caller, NULL) == 0);
  while (atomic_load(&callers_left) > 0) {
    uint64_t next = 0;
    CHECK_OK(flashmla_profile_start(&options));
    for (int i = 0; i < 20; ++i) next = read_all(next);
    CHECK_OK(flashmla_metrics(text, sizeof text, &bytes));
    flashmla_profile_stop();
    seen += read_all(next);
    if (seen > 0) atomic_store(&was_seen, true);
  }
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(seen > 0);
}

static void structs_of_other_headers(void) {
  const flashmla_profile_options options = FLASHMLA_PROFILE_OPTIONS_INIT;
  struct {
    flashmla_call_record record;
    uint64_t tail;
  } newer[2];
  flashmla_profile_state state = FLASHMLA_PROFILE_STATE_INIT;
  uint64_t bytes;
  flashmla_plan plan;
  CHECK_OK(flashmla_profile_start(&options));
  CHECK_STATUS(flashmla_profile_start(&options), FLASHMLA_ERROR_VALUE, "running already");
  CHECK_OK(flashmla_plan_decode(&shared.plan_params, &plan));
  CHECK_OK(flashmla_plan_decode(&shared.plan_params, &plan));
  flashmla_profile_stop();
  flashmla_profile_stop();
  memset(newer, 0xff, sizeof newer);
  newer[0].record.struct_size = sizeof newer[0];
  CHECK_OK(flashmla_profile_read(&newer[0].record, 2, &state));
  CHECK(state.count == 2 && state.left == 0 && state.running == 0);
  CHECK(newer[1].record.number == 1 && newer[1].record.struct_size == sizeof newer[0] && newer[1].tail == 0);
  newer[0].record.struct_size = 12;
  CHECK_STATUS(flashmla_profile_read(&newer[0].record, 1, &state), FLASHMLA_ERROR_STRUCT_SIZE, "records[0]");
  CHECK_STATUS(flashmla_profile_read(NULL, 1, &state), FLASHMLA_ERROR_NULL_POINTER, "records");
  CHECK_STATUS(flashmla_profile_read(NULL, -1, &state), FLASHMLA_ERROR_VALUE, "most");
  CHECK_STATUS(flashmla_profile_read(NULL, 0, NULL), FLASHMLA_ERROR_NULL_POINTER, "state");
  CHECK_STATUS(flashmla_profile_start(NULL), FLASHMLA_ERROR_NULL_POINTER, "options");
  CHECK_STATUS(flashmla_metrics(NULL, 0, NULL), FLASHMLA_ERROR_NULL_POINTER, "bytes");
  CHECK_OK(flashmla_metrics(NULL, 0, &bytes));
  char few[40];
  CHECK_OK(flashmla_metrics(few, sizeof few, &bytes));
  CHECK(bytes > sizeof few && strlen(few) == sizeof few - 1); /* cut off, with an end */
}

int main(void) {
  fixture_init(&shared, SMALL);
  structs_of_other_headers();
  begins_and_ends_beside_calls();
  fixture_free(&shared);
  return 0;
}
