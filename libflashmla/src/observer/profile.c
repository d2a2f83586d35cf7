/* profile.c - the profile: a ring of records of calls, one at a time for the whole process. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/arith.h"
#include "observer/cuda_times.h"
#include "observer/loads.h"
#include "observer/observer.h"

typedef flashmla_profile_options options_type;
enum {
  RECORDS = 16384,
  MOST_RECORDS = 1 << 20,
  PENDING = 2048,
  MOST_PENDING = 1 << 16,
  LENGTHS = 512,
  MOST_LENGTHS = 1 << 20
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static fm_facts *ring;     /* of call i at i % room */
static uint64_t room;      /* records that there is memory for */
static uint64_t next_read; /* numbers of calls */
static uint64_t next_call, dropped;
static fm_profile_wants wanted;
static bool running;

void fm_lock_profile(fm_profile_wants *wants) {
  pthread_mutex_lock(&lock);
  *wants = wanted;
  wants->calls = next_call;
}

void fm_unlock_profile(void) { pthread_mutex_unlock(&lock); }

/* A child that is forked while another thread has the lock could not call otherwise. */
static void before_fork(void) { pthread_mutex_lock(&lock); }
static bool survives_forks;
static void survive_forks(void) {
  survives_forks = pthread_atfork(before_fork, fm_unlock_profile, fm_unlock_profile) == 0;
}

static const uint16_t option_ends[] = {FM_END(options_type, max_lengths)};
static const fm_struct options_struct = FM_STRUCT("options", options_type, option_ends);

static flashmla_status check_count(const char *name, int32_t *count, int32_t most, int32_t otherwise) {
  if (*count < 0 || *count > most)
    return fm_fail(FLASHMLA_ERROR_VALUE, "{options.|}%s is %d; it must be in [0, %d]", name, *count, most);
  if (*count == 0) *count = otherwise;
  return FLASHMLA_OK;
}

static flashmla_status read_options(const options_type *given, options_type *options) {
  FM_TRY(fm_read_params(given, &options_struct, options));
  if ((options->flags & ~(uint32_t)(FLASHMLA_PROFILE_LENGTHS | FLASHMLA_PYTHON_NAMES)) != 0)
    return fm_fail(FLASHMLA_ERROR_FLAGS, "options.flags is 0x%x; only bits of 0x%x are known", options->flags,
                   FLASHMLA_PROFILE_LENGTHS | FLASHMLA_PYTHON_NAMES);
  FM_TRY(check_count("max_records", &options->max_records, MOST_RECORDS, RECORDS));
  FM_TRY(check_count("max_pending", &options->max_pending, MOST_PENDING, PENDING));
  return check_count("max_lengths", &options->max_lengths, MOST_LENGTHS, LENGTHS);
}

static flashmla_status start_locked(const options_type *options) {
  if (running)
    return fm_fail(FLASHMLA_ERROR_VALUE,
                   "a profile is running already; {flashmla_profile_stop ends it|it ends with its with}, and a process "
                   "has one at a time");
  fm_facts *made = malloc(sizeof *made * (size_t)options->max_records);
  if (made == NULL)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for %d records could not be allocated",
                   options->max_records);
  free(ring);
  ring = made;
  room = (uint64_t)options->max_records;
  next_read = next_call = dropped = 0;
  const bool lengths = (options->flags & FLASHMLA_PROFILE_LENGTHS) != 0;
  wanted = (fm_profile_wants){
      .profile = wanted.profile + 1, .pending = options->max_pending, .lengths = lengths ? options->max_lengths : 0};
  running = true;
  fm_observe(FM_PROFILING, true);
  return FLASHMLA_OK;
}

flashmla_status flashmla_profile_start(const options_type *options) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  options_type known;
  FM_TRY(read_options(options, &known));
  pthread_once(&once, survive_forks);
  if (!survives_forks) return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for a profile could not be allocated");
  pthread_mutex_lock(&lock);
  const flashmla_status status = start_locked(&known);
  pthread_mutex_unlock(&lock);
  return status;
}

void flashmla_profile_stop(void) {
  pthread_mutex_lock(&lock);
  running = false;
  fm_observe(FM_PROFILING, false);
  pthread_mutex_unlock(&lock);
}

/* The record of a call; NULL where it was read or dropped. */
static fm_facts *record_of(uint64_t number) {
  return number >= next_read && number < next_call ? &ring[number % room] : NULL;
}

void fm_time_found(uint64_t number, int32_t device_time, int64_t begin_ns, int64_t ns, const int32_t *lengths) {
  fm_facts *facts = record_of(number);
  if (facts == NULL) return;
  flashmla_call_record *record = &facts->record;
  record->device_time = device_time;
  record->device_begin_ns = begin_ns;
  record->device_ns = ns;
  const int32_t *of_kind[FM_ITEM_KINDS] = {NULL};
  for (int32_t kind = 0; lengths != NULL && kind < FM_ITEM_KINDS; ++kind)
    if (facts->items[kind].lengths != NULL) {
      of_kind[kind] = lengths;
      lengths += facts->items[kind].requests;
    }
  fm_add_items(facts, of_kind);
}

/* Number of the call, of a profile that runs; the oldest record makes room. */
static uint64_t put_locked(const fm_facts *facts) {
  if (next_call - next_read == room) {
    ++next_read;
    ++dropped;
  }
  ring[next_call % room] = *facts;
  ring[next_call % room].record.number = next_call;
  return next_call++;
}

void fm_profile_call(const fm_observation *seen, const fm_call *call, const void *state) {
  fm_facts facts;
  fm_describe_call(call, state, &facts);
  flashmla_call_record *record = &facts.record;
  record->begin_ns = seen->begin_ns;
  record->device_time = seen->device_time;
  record->device_begin_ns = record->device_ns = -1;
  if (fm_loads() != seen->loads) record->flags |= FLASHMLA_CALL_LOADED;
  const int32_t *lengths[FM_ITEM_KINDS] = {NULL};
  for (int32_t kind = 0; !call->cuda && kind < FM_ITEM_KINDS; ++kind) lengths[kind] = facts.items[kind].lengths;
  /* Of a call whose time is pending the items are added when the time is there, and perhaps the lengths. */
  if (seen->device_time != FLASHMLA_TIME_PENDING) fm_add_items(&facts, lengths);
  record->host_ns = fm_clock_ns() - seen->begin_ns;
  pthread_mutex_lock(&lock);
  const bool same = running && (seen->pair < 0 || seen->profile == wanted.profile);
  const uint64_t number = same ? put_locked(&facts) : 0;
  pthread_mutex_unlock(&lock);
  fm_end_times(seen, same, number);
}

static int32_t take_records_locked(flashmla_call_record *records, int32_t most, uint32_t size) {
  int32_t count = 0;
  for (; count < most && next_read < next_call; ++count, ++next_read) {
    const flashmla_call_record *from = &ring[next_read % room].record;
    if (from->device_time == FLASHMLA_TIME_PENDING) break;
    char *to = (char *)records + (size_t)size * (size_t)count;
    const size_t known = size < sizeof *from ? size : sizeof *from;
    memcpy(to, from, known);
    memset(to + known, 0, size - known);
    memcpy(to, &size, sizeof size);
  }
  return count;
}

static const uint16_t record_ends[] = {FM_END(flashmla_call_record, num_splits), FM_END(flashmla_call_record, capacity),
                                       FM_END(flashmla_call_record, extra_topk), FM_END(flashmla_call_record, window)};
static const fm_struct record_struct = FM_STRUCT("records[0]", flashmla_call_record, record_ends);
static const uint16_t state_ends[] = {FM_END(flashmla_profile_state, left)};
static const fm_struct state_struct = FM_STRUCT("state", flashmla_profile_state, state_ends);

flashmla_status flashmla_profile_read(flashmla_call_record *records, int32_t most, flashmla_profile_state *state) {
  if (state == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "state is NULL; what is told goes there");
  if (most < 0) return fm_fail(FLASHMLA_ERROR_VALUE, "most is %d; it must be >= 0", most);
  if (records == NULL && most > 0) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "records is NULL; they go there");
  uint32_t size = 0, state_size;
  FM_TRY(fm_read_struct_size(state, &state_struct, &state_size));
  if (most > 0) FM_TRY(fm_read_struct_size(records, &record_struct, &size));
  fm_find_times();
  pthread_mutex_lock(&lock);
  state->count = take_records_locked(records, most, size);
  state->running = running;
  state->calls = next_call;
  state->dropped = dropped;
  state->left = next_call - next_read;
  state->reserved = 0;
  memset((char *)state + sizeof *state, 0, state_size - sizeof *state); /* what a newer header has */
  pthread_mutex_unlock(&lock);
  return FLASHMLA_OK;
}
