/* cpu.c - joins the results of attention over disjoint parts of the KV cache, read where they lie. */
#include <math.h>
#include <stdatomic.h>

#include "core/arith.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "ops/merge_states/merge_states.h"

enum {
  TASK_ROWS = 32, /* query rows a thread takes at a time */
  CHUNK = 512,    /* elements of a row that are summed at a time: they stay in level 1 */
  /* A thread should have so many to read at least, of all parts: fm_cpu_threads_for's unit. Found as LEAST_TO_SHARE
   * was, for 2 and 8 parts of bfloat16 and float32: 2 threads are as fast as one at 40 us, 200 to 280 thousand. */
  ELEMENTS_PER_THREAD = 1 << 16
};

/* One query row. */
typedef struct row {
  int32_t request, token, head;
} row;

typedef struct job {
  const fm_merge *merge;
  const fm_cpu_elements *elements;
  int64_t rows;
  atomic_llong next_task;
} job;

static int64_t offset_of(const int64_t stride[3], int64_t first, int64_t second, int64_t third) {
  return first * stride[0] + second * stride[1] + third * stride[2];
}

static float lse_of(const fm_merge *merge, row r, int32_t part) {
  const fm_state *state = &merge->states[merge->stacked ? 0 : part];
  const int64_t element = offset_of(state->lse_stride, r.request, r.head, r.token);
  return state->lse[element + (merge->stacked ? part * merge->lse_state_stride : 0)];
}

static const char *out_of(const fm_merge *merge, row r, int32_t part) {
  const fm_state *state = &merge->states[merge->stacked ? 0 : part];
  const int64_t element = offset_of(state->out_stride, r.request, r.token, r.head);
  return (const char *)state->out +
         (element + (merge->stacked ? part * merge->out_state_stride : 0)) * fm_dtype_bytes(merge->dtype);
}

/* The part attends to nothing: its values are not read. */
static bool is_empty(float lse) { return isinf(lse); }

/* exp or exp2 of x, as the base of the log-sum-exps is. */
static double power(const fm_merge *merge, double x) { return merge->lse_base2 ? exp2(x) : exp(x); }

/* What the parts weigh: part i has base^(lse_i - largest) of `total`. The largest lse stays apart from log(total),
 * which is lost in their sum when the former is huge. */
typedef struct weights {
  float largest;
  double total; /* 0: all parts are empty; NaN if an lse is */
} weights;

static weights weigh(const fm_merge *merge, row r) {
  weights w = {.largest = -INFINITY};
  for (int32_t part = 0; part < merge->num_states; part++) {
    const float lse = lse_of(merge, r, part);
    if (isnan(lse)) return (weights){.largest = 0, .total = NAN};
    if (!is_empty(lse) && lse > w.largest) w.largest = lse;
  }
  for (int32_t part = 0; part < merge->num_states; part++) {
    const float lse = lse_of(merge, r, part);
    if (!is_empty(lse)) w.total += power(merge, (double)lse - w.largest);
  }
  return w;
}

/* Elements [begin, begin + count) of the row. */
static void join_values(const job *job, row r, weights w, int32_t begin, int32_t count) {
  const fm_merge *merge = job->merge;
  const int32_t bytes = fm_dtype_bytes(merge->dtype);
  float sum[CHUNK] __attribute__((aligned(64))) = {0}, widened[CHUNK] __attribute__((aligned(64)));
  for (int32_t part = 0; part < merge->num_states; part++) {
    const float lse = lse_of(merge, r, part);
    if (is_empty(lse)) continue;
    const void *given = out_of(merge, r, part) + (int64_t)begin * bytes;
    const float *values = merge->dtype == FM_FP32 ? given : widened;
    if (values == widened) job->elements->widen[merge->dtype](widened, given, count);
    const double weight = power(merge, (double)lse - w.largest) / w.total;
    job->elements->add_weighted(sum, values, (float)weight, count);
  }
  const int64_t element = offset_of(merge->result.out_stride, r.request, r.token, r.head) + begin;
  char *out = (char *)(uintptr_t)merge->result.out + element * fm_dtype_bytes(merge->out_dtype);
  job->elements->narrow[merge->out_dtype](out, sum, 1.0f, count);
}

static void join_row(const job *job, row r) {
  const fm_merge *merge = job->merge;
  const weights w = weigh(merge, r);
  for (int32_t begin = 0; begin < merge->d_v; begin += CHUNK)
    join_values(job, r, w, begin, fm_min32(CHUNK, merge->d_v - begin));
  if (merge->result.lse == NULL) return;
  float *lse = (float *)(uintptr_t)merge->result.lse;
  lse += offset_of(merge->result.lse_stride, r.request, r.head, r.token);
  *lse = w.total == 0 ? merge->empty_lse : (float)(w.largest + (merge->lse_base2 ? log2(w.total) : log(w.total)));
}

static void work(void *context, int32_t thread) {
  job *job = context;
  const fm_merge *merge = job->merge;
  (void)thread;
  for (int64_t task; (task = atomic_fetch_add(&job->next_task, 1)) * TASK_ROWS < job->rows;) {
    const int64_t end = fm_min64(job->rows, (task + 1) * TASK_ROWS);
    for (int64_t i = task * TASK_ROWS; i < end; i++) {
      const int64_t tokens = i / merge->h_q; /* before this row's */
      join_row(job, (row){.request = (int32_t)(tokens / merge->s_q),
                          .token = (int32_t)(tokens % merge->s_q),
                          .head = (int32_t)(i % merge->h_q)});
    }
  }
}

static flashmla_status launch(fm_call *call, void *state) {
  const fm_merge *merge = state;
  job job = {.merge = merge,
             .elements = fm_cpu_elements_for(fm_cpu_select(), merge->d_v),
             .rows = (int64_t)merge->batch * merge->s_q * merge->h_q};
  const double elements = (double)job.rows * merge->d_v * merge->num_states;
  const int32_t tasks = (int32_t)fm_min64(INT32_MAX, fm_ceil_div(job.rows, TASK_ROWS));
  fm_cpu_parallel(fm_cpu_threads_for(merge->num_threads, tasks, elements / ELEMENTS_PER_THREAD), work, &job);

  fm_set_last_kernel(call->operation->cpu_kernels[0].name);
  return FLASHMLA_OK;
}

const fm_backend fm_merge_states_cpu = {.launch = launch};
