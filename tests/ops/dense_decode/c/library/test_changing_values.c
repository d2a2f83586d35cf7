/* Calls on host memory while another thread rewrites lengths, query offsets, lengths of all shards and the plan: each
 * row is that of some values that were there, and nothing beside the outputs and the scratch is touched, which
 * AddressSanitizer sees. Which values a call meets is chance; any must do. */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "check.h"
#include "fixture.h"

enum { BATCH = 6, HEADS = 3, D_V = 256, CALLS = 150, LENGTHS = 1, OFFSETS = 2, SHARDS = 4, KINDS = 8 };
static const geometry shape = {BATCH,       2,           HEADS,           1, 7, 64, 30, .dtype = FP32,
                               .d_qk = 320, .varlen = 1, .total_q = BATCH};

/* Of each kind two values: that a request is short or long, that the second of two requests has a token of its own or
 * none, and that few tokens or many are attended over all shards. */
static int32_t length_of(int request, bool other) { return other ? 1900 - 3 * request : 65 + request; }
static int32_t offset_of(int request, bool other) { return other ? (request + 1) / 2 * 2 : request; }
static int32_t global_of(int request, bool other) { return other ? 3000 - request : 40 + request; }

/* Stores that other threads may meet anywhere. */
static void store(int32_t *to, int32_t value) { __atomic_store_n(to, value, __ATOMIC_RELAXED); }

static void set(const fixture *f, int kind, int request, bool other) {
  if (kind == LENGTHS && request < BATCH)
    store((int32_t *)f->tensor[CACHE_SEQLENS].data + request, length_of(request, other));
  if (kind == OFFSETS) store((int32_t *)f->tensor[CU_SEQLENS_Q].data + request, offset_of(request, other));
  if (kind == SHARDS && request < BATCH)
    store((int32_t *)f->tensor[GLOBAL_SEQLENS].data + request, global_of(request, other));
}

static void set_all(const fixture *f, int others) {
  for (int kind = LENGTHS; kind < KINDS; kind *= 2)
    for (int request = 0; request <= BATCH; request++) set(f, kind, request, others & kind);
}

static void begin(fixture *f, uint32_t flags) {
  fixture_init(f, shape);
  fixture_fill(f);
  f->decode.flags = flags;
  f->decode.cp_world = 2;
  f->decode.cp_interleave = 64;
  f->decode.global_seqlens = &f->tensor[GLOBAL_SEQLENS];
  f->decode.num_threads = 2;
  set_all(f, 0);
  fixture_allocate_workspace(f);
}

/* ---- rows ---- */

static float wanted[KINDS][BATCH][HEADS][D_V]; /* with all values of some kinds the other ones */

static void make_wanted(uint32_t flags) {
  fixture f;
  begin(&f, flags);
  for (int others = 0; others < KINDS; others++) {
    set_all(&f, others);
    CHECK_OK(flashmla_dense_decode(&f.decode));
    memcpy(wanted[others], f.tensor[OUT].data, sizeof wanted[others]);
  }
  fixture_free(&f);
}

static bool is_row(const float *found, const float *row) {
  for (int d = 0; d < D_V; d++)
    if (!(fabsf(found[d] - row[d]) < 1e-5f)) return false;
  return true;
}

static void check_rows(const fixture *f) {
  const float (*rows)[HEADS][D_V] = f->tensor[OUT].data;
  for (int token = 0; token < BATCH; token++)
    for (int head = 0; head < HEADS; head++) {
      int others = 0;
      while (others < KINDS && !is_row(rows[token][head], wanted[others][token][head])) others++;
      CHECK(others < KINDS);
    }
}

/* ---- who rewrites ---- */

typedef struct writer {
  const fixture *f;
  int kinds;
  int32_t *buffer; /* a plan's, or NULL */
  const int32_t *plans[2];
  size_t integers;
  atomic_bool enough;
} writer;

static uint32_t next(uint32_t *state) { return (*state = *state * 1664525u + 1013904223u) >> 16; }

static void *rewrite(void *context) {
  writer *w = context;
  uint32_t state = 1;
  while (!w->enough) {
    for (int kind = LENGTHS; kind < KINDS; kind *= 2)
      if (w->kinds & kind) set(w->f, kind, (int)(next(&state) % (BATCH + 1)), next(&state) & 1);
    if (w->buffer != NULL) {
      const uint32_t what = next(&state);
      const size_t at = next(&state) % w->integers;
      const int32_t garbage = (int32_t)(next(&state) % 9) - 1;
      for (size_t i = 0; what % 4 == 0 && i < w->integers; i++) store(&w->buffer[i], w->plans[what / 4 % 2][i]);
      if (what % 4 == 1) store(&w->buffer[at], garbage);
      if (what % 4 == 2) store(&w->buffer[at], INT32_MAX - 1 - garbage);
      if (what % 4 == 3) store(&w->buffer[at], w->plans[0][at]);
    }
    sched_yield();
  }
  return NULL;
}

static int amid_changes(fixture *f, writer *w) {
  pthread_t thread;
  int refused = 0;
  w->f = f;
  CHECK(pthread_create(&thread, NULL, rewrite, w) == 0);
  for (int i = 0; i < CALLS; i++) {
    const flashmla_status status = flashmla_dense_decode(&f->decode);
    CHECK(status == FLASHMLA_OK || (w->buffer != NULL && status == FLASHMLA_ERROR_PLAN_MISMATCH));
    if (status == FLASHMLA_OK)
      check_rows(f);
    else
      refused++;
  }
  w->enough = true;
  CHECK(pthread_join(thread, NULL) == 0);
  return refused;
}

/* ---- */

static void without_a_plan(uint32_t flags, int kinds) {
  fixture f;
  writer w = {.kinds = kinds};
  begin(&f, flags);
  amid_changes(&f, &w);
  fixture_free(&f);
}

static void with_a_plan(uint32_t flags, int num_splits, int kinds) {
  fixture f;
  writer w = {.kinds = kinds};
  begin(&f, flags);
  fixture_use_plan(&f, num_splits);
  amid_changes(&f, &w);
  fixture_free(&f);
}

static void with_a_plan_that_is_rewritten(uint32_t flags, int kinds) {
  fixture f;
  writer w = {.kinds = kinds};
  begin(&f, flags);
  fixture_use_plan(&f, 0);
  const size_t bytes = f.plan_params.buffer_size;
  int32_t *plans[2];
  for (int i = 0; i < 2; i++) {
    set_all(&f, i * (KINDS - 1));
    CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan));
    plans[i] = malloc(bytes);
    CHECK(plans[i] != NULL);
    w.plans[i] = memcpy(plans[i], f.plan_params.buffer, bytes);
  }
  w.buffer = f.plan_params.buffer;
  w.integers = bytes / sizeof(int32_t);
  amid_changes(&f, &w);
  memcpy(f.plan_params.buffer, plans[0], bytes);
  CHECK_OK(flashmla_dense_decode(&f.decode));
  check_rows(&f);
  for (int i = 0; i < 2; i++) free(plans[i]);
  fixture_free(&f);
}

int main(void) {
  for (int invariant = 0; invariant <= 1; invariant++) {
    const uint32_t flags = invariant ? FLASHMLA_BATCH_INVARIANT : 0;
    make_wanted(flags);
    for (int kinds = 1; kinds < KINDS; kinds = kinds == 4 ? KINDS - 1 : kinds == KINDS - 1 ? KINDS : 2 * kinds) {
      without_a_plan(flags, kinds);
      with_a_plan(flags, 0, kinds);
    }
    if (!invariant) with_a_plan(flags, 3, KINDS - 1);
    with_a_plan_that_is_rewritten(flags, 0);
    with_a_plan_that_is_rewritten(flags, KINDS - 1);
  }
  return 0;
}
