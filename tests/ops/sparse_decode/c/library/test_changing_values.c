/* Calls on host memory while another thread rewrites indices, lengths, query offsets and the plan: rows are unspecified
 * then, but they are of tokens of the caches, and nothing beside the tensors is touched, which AddressSanitizer sees.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "../../../plan_sparse_decode/c/planned.h"

enum { CALLS = 50, D_V = 512, MAY_CHANGE = 6 };

static selections s;
static void *rooms[TENSORS]; /* of every tensor, of its exact size */

static int64_t bytes_of(int which) {
  int64_t elements = 1;
  for (int axis = 0; axis < s.tensor[which].ndim; ++axis) elements *= s.shape[which][axis];
  return elements * s.tensor[which].dtype.bits / 8;
}

/* Of caches in bf16: 0.5 everywhere, so that a row of tokens is 0.5, and one of none 0. */
static void begin(bool varlen) {
  init(&s, FLASHMLA_KV_BF16, FLASHMLA_KV_BF16);
  s.params.attn_sink = NULL;
  if (varlen) make_varlen(&s);
  for (int i = 0; i < TENSORS; ++i) {
    rooms[i] = aligned_alloc(64, (size_t)(bytes_of(i) + 63) / 64 * 64);
    CHECK(rooms[i] != NULL);
    memset(rooms[i], 0, (size_t)bytes_of(i));
    s.tensor[i].data = rooms[i];
  }
  const int filled[] = {Q, KV, EXTRA_KV};
  for (int i = 0; i < 3; ++i)
    for (int64_t at = 0; at < bytes_of(filled[i]) / 2; ++at) ((uint16_t *)rooms[filled[i]])[at] = 0x3F00;
  s.params.num_threads = 2;
}

static void end(void) {
  for (int i = 0; i < TENSORS; ++i) free(rooms[i]);
}

typedef struct writer {
  int32_t *values[MAY_CHANGE]; /* NULL: of no tensor */
  int64_t counts[MAY_CHANGE];
  uint32_t state;
  atomic_bool enough;
} writer;

static uint32_t next(writer *w) { return (w->state = w->state * 1664525u + 1013904223u) >> 12; }

static void *rewrite(void *context) {
  writer *w = context;
  const int32_t odd[] = {0, 1, -1, INT32_MIN, INT32_MAX, BLOCKS * PAGE, BLOCKS * PAGE - 1, TOPK, 5};
  while (!w->enough) {
    for (int i = 0; i < MAY_CHANGE; ++i)
      for (int many = 0; many < 8 && w->values[i] != NULL; ++many) {
        const int32_t value = next(w) % 3 > 0 ? (int32_t)(next(w) % 8) : odd[next(w) % 9];
        __atomic_store_n(&w->values[i][next(w) % (uint64_t)w->counts[i]], value, __ATOMIC_RELAXED);
      }
    sched_yield();
  }
  return NULL;
}

static float value_at(int64_t i) {
  const uint32_t bits = (uint32_t)((const uint16_t *)rooms[OUT])[i] << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static void run_amid_changes(bool varlen, bool planned, bool plan_changes) {
  begin(varlen);
  flashmla_plan plan;
  flashmla_plan_sparse_decode_params make = plan_params_of(&s, 0);
  CHECK_OK(flashmla_plan_sparse_decode_size(&make, &make.buffer_size));
  make.buffer = aligned_alloc(64, (make.buffer_size + 63) / 64 * 64);
  CHECK(make.buffer != NULL);
  if (planned) {
    CHECK_OK(flashmla_plan_sparse_decode(&make, &plan));
    s.params.plan = &plan;
  }
  writer w = {.state = 1};
  const int changing[] = {INDICES, LENGTHS, EXTRA_INDICES, EXTRA_LENGTHS, OFFSETS};
  for (int i = 0; i < MAY_CHANGE - 1; ++i) {
    w.values[i] = changing[i] == OFFSETS && !varlen ? NULL : rooms[changing[i]];
    w.counts[i] = bytes_of(changing[i]) / 4;
  }
  w.values[MAY_CHANGE - 1] = plan_changes ? make.buffer : NULL;
  w.counts[MAY_CHANGE - 1] = (int64_t)make.buffer_size / 4;
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, rewrite, &w) == 0);
  for (int call = 0; call < CALLS; ++call) {
    const flashmla_status status = flashmla_sparse_decode(&s.params);
    CHECK(status == FLASHMLA_OK || (plan_changes && status == FLASHMLA_ERROR_PLAN_MISMATCH));
    for (int64_t i = 0; i < bytes_of(OUT) / 2; i += D_V / 2)
      CHECK(value_at(i) == 0 || fabsf(value_at(i) - 0.5f) < 0.01f);
  }
  w.enough = true;
  CHECK(pthread_join(thread, NULL) == 0);
  free(make.buffer);
  end();
}

int main(void) {
  for (int varlen = 0; varlen <= 1; ++varlen) {
    run_amid_changes(varlen, false, false);
    run_amid_changes(varlen, true, false);
    run_amid_changes(varlen, true, true);
  }
  return 0;
}
