/* cuda_times.c - see cuda_times.h. Every device has a ring of pairs of events, made by the first profiled call there
 * and kept: calls take them in turn, of the earliest call whose work is done again. A pair belongs to the call that
 * took it until that ends, and to what it enqueued with it until that is done, whatever profiles begin meanwhile. Times
 * are read where the profile is: that takes the driver longer than all else that is asked of it for a call. */
#include "observer/cuda_times.h"

#include <stdlib.h>
#include <string.h>

#include "core/arith.h"
#include "cuda/device.h"

typedef enum pair_state { IDLE, TAKEN, PENDING } pair_state;
typedef struct pair {
  CUevent begin, end;
  pair_state state;
  bool has_lengths;
  uint32_t profile; /* that its time is told to; none has number 0 */
  uint64_t number;  /* of the call in that */
} pair;
enum { ALL_OF_FIRST = 256, OF_A_SHAPE = 8, SHAPES = 1024 };
typedef struct device_events {
  pair *pairs;
  int32_t count, next;
  CUevent base; /* that begins are counted from */
  bool based;
  uint32_t profile;
  int32_t *lengths;        /* pinned: `room` of each pair; NULL: there are none, and no room */
  int32_t room, with_room; /* pairs that there is room for: all, or there is no room */
  uint8_t timed[SHAPES];   /* calls of a shape, by its hash, that were timed for being its first */
} device_events;
static device_events all[FM_MAX_DEVICES];

/* Queries are not forbidden in this thread while another one captures a graph, which they do not touch. */
static int relax(const fm_driver *driver) {
  int mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  driver->exchange_capture_mode(&mode);
  return mode;
}
static void restore(const fm_driver *driver, int mode) { driver->exchange_capture_mode(&mode); }

static bool make_pairs(const fm_driver *driver, device_events *of, fm_profile_wants wants) {
  pair *pairs = of->count < wants.pending ? realloc(of->pairs, sizeof(pair) * (size_t)wants.pending) : of->pairs;
  if (pairs == NULL) return false;
  of->pairs = pairs;
  if (of->base == NULL && driver->event_create(&of->base, CU_EVENT_DEFAULT) != 0) return false;
  for (; of->count < wants.pending; ++of->count) {
    pair *made = &pairs[of->count];
    if (driver->event_create(&made->begin, CU_EVENT_DEFAULT) != 0 ||
        driver->event_create(&made->end, CU_EVENT_DEFAULT) != 0)
      return false;
    made->state = IDLE;
  }
  return true;
}

/* Pinned memory of an earlier profile stays: a copy may be on its way. */
static void make_lengths(const fm_driver *driver, device_events *of, fm_profile_wants wants) {
  if (of->with_room >= of->count && of->room >= wants.lengths) return;
  void *memory = NULL;
  const size_t bytes = sizeof(int32_t) * (size_t)of->count * (size_t)wants.lengths;
  const bool made = bytes > 0 && driver->mem_host_alloc(&memory, bytes, CU_MEMHOSTALLOC_PORTABLE) == 0;
  of->lengths = made ? memory : NULL;
  of->room = made ? wants.lengths : 0;
  of->with_room = made ? of->count : 0;
}

/* The first call of a profile on the device. What is pending of an earlier one is forgotten, but where lengths are on
 * their way. */
static bool begin_profile(const fm_driver *driver, device_events *of, fm_profile_wants wants) {
  const int mode = relax(driver);
  const bool made = make_pairs(driver, of, wants);
  if (made) make_lengths(driver, of, wants);
  restore(driver, mode);
  for (int32_t i = 0; i < of->count; ++i)
    if (of->pairs[i].state == PENDING && !of->pairs[i].has_lengths) of->pairs[i].state = IDLE;
  memset(of->timed, 0, sizeof of->timed);
  of->based = false;
  of->profile = wants.profile;
  return made && of->count > 0;
}

static int64_t ns_of(float ms) { return (int64_t)((double)ms * 1e6); }

static void tell_time(const fm_driver *driver, const device_events *of, const pair *it, CUresult result) {
  float begin = 0, ms = 0;
  if (result == 0) result = driver->event_elapsed_time(&ms, it->begin, it->end);
  if (result == 0) result = driver->event_elapsed_time(&begin, of->base, it->begin);
  const int32_t *lengths = it->has_lengths ? of->lengths + (it - of->pairs) * of->room : NULL;
  if (result == 0)
    fm_time_found(it->number, FLASHMLA_TIME_KNOWN, ns_of(begin), ns_of(ms), lengths);
  else
    fm_time_found(it->number, FLASHMLA_TIME_FAILED, -1, -1, NULL);
}

/* Reads the time of a pending pair where it is done, and then idle. */
static void find(const fm_driver *driver, const device_events *of, pair *it) {
  const CUresult result = driver->event_query(it->end);
  if (result == CUDA_ERROR_NOT_READY) return;
  if (it->profile == of->profile) tell_time(driver, of, it, result);
  it->state = IDLE;
}

/* Of a call that is done the time is given up, for that of a newer one. */
static bool is_free(const fm_driver *driver, const device_events *of, pair *it) {
  if (it->state == PENDING) {
    const int mode = relax(driver);
    const CUresult result = driver->event_query(it->end);
    restore(driver, mode);
    if (result == CUDA_ERROR_NOT_READY) return false;
    if (it->profile == of->profile) fm_time_found(it->number, FLASHMLA_TIME_SKIPPED, -1, -1, NULL);
    it->state = IDLE;
  }
  return it->state == IDLE;
}

/* The next pair, or -1. Where a call is late with its pair, the next ones are looked at, too. */
static int32_t take(const fm_driver *driver, device_events *of) {
  enum { MOST = 4 };
  int32_t at = of->next;
  for (int32_t i = 0; i < fm_min32(MOST, of->count); ++i) {
    const int32_t behind = at + 1 < of->count ? at + 1 : 0;
    if (is_free(driver, of, &of->pairs[at])) {
      of->pairs[at].state = TAKEN;
      of->next = behind;
      return at;
    }
    at = behind;
  }
  return -1;
}

static bool enter(const fm_driver **driver, int32_t device_id, fm_observation *seen) {
  flashmla_status status;
  const fm_device *device;
  *driver = fm_driver_open(&status);
  if (*driver == NULL || fm_device_get(*driver, "device_id", device_id, &device) != FLASHMLA_OK) return false;
  if (fm_device_enter(*driver, device, &seen->pushed) != FLASHMLA_OK) return false;
  seen->device = device;
  return true;
}

static bool captured(const fm_driver *driver, fm_observation *seen) {
  int status = CU_STREAM_CAPTURE_STATUS_NONE;
  if (driver->stream_is_capturing((CUstream)seen->stream, &status) != 0) return false;
  if (status != CU_STREAM_CAPTURE_STATUS_NONE) seen->device_time = FLASHMLA_TIME_CAPTURED;
  return status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* Whether the lengths of the call are on their way to the host, in front of its launches. */
static bool copy_lengths(const fm_driver *driver, const fm_observation *seen, const fm_facts *facts,
                         device_events *of) {
  int32_t *into = of->lengths + (int64_t)seen->pair * of->room, *const end = into + of->room;
  bool any = false;
  for (int32_t kind = 0; kind < FM_ITEM_KINDS; ++kind) {
    const fm_items_read *items = &facts->items[kind];
    if (items->lengths == NULL) continue;
    if (items->requests > end - into) return false;
    const size_t bytes = sizeof(int32_t) * (size_t)items->requests;
    const CUdeviceptr to = (CUdeviceptr)(uintptr_t)into, from = (CUdeviceptr)(uintptr_t)items->lengths;
    if (driver->memcpy_async(to, from, bytes, (CUstream)seen->stream) != 0) return false;
    into += items->requests;
    any = true;
  }
  return any;
}

/* Whether the call is among the first of its operation and extents; shapes of one hash count as one. */
static bool is_of_new_shape(device_events *of, const fm_call *call) {
  uint64_t hash = (uintptr_t)call->operation;
  for (int32_t axis = 0; axis < call->operation->num_axes; ++axis)
    hash = (hash ^ (uint64_t)call->extents[axis]) * UINT64_C(0x9E3779B97F4A7C15);
  uint8_t *timed = &of->timed[hash >> 54];
  if (*timed == OF_A_SHAPE) return false;
  ++*timed;
  return true;
}
_Static_assert(SHAPES == 1 << (64 - 54), "the bits of a hash that name a shape");

/* Each event takes the driver more than a microsecond, a copy of lengths several: many calls are as well known by a
 * sixteenth of them, which are chosen so that no order of operations meets it. */
static bool is_timed(device_events *of, const fm_call *call, uint64_t number) {
  if (number < ALL_OF_FIRST) return true;
  return is_of_new_shape(of, call) || (number * UINT64_C(0x9E3779B97F4A7C15)) >> 60 == 0;
}

/* Before anything else, since most calls are: the driver is asked only whether a stream that may be captured is. */
static bool is_skipped(const fm_call *call, fm_observation *seen) {
  flashmla_status status;
  fm_profile_wants wants;
  fm_lock_profile(&wants);
  device_events *of = &all[call->device_id];
  const bool skipped = of->profile == wants.profile && !is_timed(of, call, wants.calls);
  fm_unlock_profile();
  if (!skipped) return false;
  seen->device_time = FLASHMLA_TIME_SKIPPED;
  if (seen->stream != NULL) captured(fm_driver_open(&status), seen);
  return true;
}

/* The events of the call, taken with the lock held; NULL: there are none. */
static pair *take_pair_locked(const fm_driver *driver, fm_observation *seen, const fm_profile_wants *wants) {
  device_events *of = &all[seen->device->id];
  const int64_t begin_ns = fm_clock_ns();
  const bool new = of->profile != wants->profile;
  if (new && !begin_profile(driver, of, *wants)) return NULL;
  if (of->count == 0) return NULL;                     /* events could not be made */
  if (new) seen->begin_ns += fm_clock_ns() - begin_ns; /* no part of a call */
  seen->profile = wants->profile;
  seen->pair = take(driver, of);
  if (seen->pair < 0) seen->device_time = FLASHMLA_TIME_LOST;
  if (seen->pair >= 0 && !of->based) of->based = driver->event_record(of->base, (CUstream)seen->stream) == 0;
  return seen->pair >= 0 && of->based ? &of->pairs[seen->pair] : NULL;
}

void fm_time_launches(fm_observation *seen, const fm_call *call, const void *state) {
  const fm_driver *driver;
  memcpy(&seen->stream, call->params + call->operation->stream_offset, sizeof seen->stream);
  if (is_skipped(call, seen)) return;
  seen->device_time = FLASHMLA_TIME_FAILED;
  if (!enter(&driver, call->device_id, seen) || captured(driver, seen)) return;
  fm_profile_wants wants;
  fm_lock_profile(&wants);
  pair *it = take_pair_locked(driver, seen, &wants);
  device_events *of = &all[seen->device->id];
  if (it != NULL && wants.lengths > 0 && of->room > 0) {
    fm_facts facts;
    fm_describe_call(call, state, &facts);
    seen->has_lengths = copy_lengths(driver, seen, &facts, of);
  }
  const CUevent begin = it != NULL ? it->begin : NULL;
  seen->end = it != NULL ? it->end : NULL; /* pairs move where the next profile has more */
  fm_unlock_profile();
  if (begin != NULL && driver->event_record(begin, (CUstream)seen->stream) == 0)
    seen->device_time = FLASHMLA_TIME_PENDING;
}

void fm_launches_timed(fm_observation *seen) {
  flashmla_status status;
  if (seen->device_time != FLASHMLA_TIME_PENDING) return;
  if (fm_driver_open(&status)->event_record((CUevent)seen->end, (CUstream)seen->stream) != 0)
    seen->device_time = FLASHMLA_TIME_FAILED;
}

void fm_end_times(const fm_observation *seen, bool recorded, uint64_t number) {
  if (seen->device == NULL) return;
  flashmla_status status;
  const fm_driver *driver = fm_driver_open(&status);
  if (seen->pair >= 0) {
    fm_profile_wants wants;
    fm_lock_profile(&wants);
    pair *it = &all[seen->device->id].pairs[seen->pair];
    const bool pending = seen->device_time == FLASHMLA_TIME_PENDING && (recorded || seen->has_lengths);
    it->has_lengths = seen->has_lengths;
    it->profile = recorded ? seen->profile : 0;
    it->number = number;
    it->state = pending ? PENDING : IDLE;
    fm_unlock_profile();
  }
  fm_device_leave(driver, seen->pushed);
}

/* Of pairs from `first` on, a few at a time, since calls wait for the lock meanwhile. Whether there may be more. */
static bool find_some(int32_t device_id, int32_t first, int32_t count) {
  fm_observation seen;
  fm_profile_wants wants;
  fm_lock_profile(&wants);
  const fm_driver *driver;
  device_events *of = &all[device_id];
  const bool any = first < of->count && of->profile == wants.profile && enter(&driver, device_id, &seen);
  if (any) {
    const int mode = relax(driver);
    for (int32_t i = first; i < of->count && i < first + count; ++i)
      if (of->pairs[i].state == PENDING) find(driver, of, &of->pairs[i]);
    restore(driver, mode);
    fm_device_leave(driver, seen.pushed);
  }
  fm_unlock_profile();
  return any;
}

void fm_find_times(void) {
  enum { AT_ONCE = 64 };
  for (int32_t device_id = 0; device_id < FM_MAX_DEVICES; ++device_id)
    for (int32_t first = 0; find_some(device_id, first, AT_ONCE); first += AT_ONCE) continue;
}
