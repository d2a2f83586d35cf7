/* cpu_run.c - see cpu_run.h. */
#include "attention/cpu_run.h"

#include <math.h>
#include <stdlib.h>

#include "attention/cpu_piece.h"
#include "cpu/threads.h"

enum {
  /* The number of parts follows from the shapes, never from the number of threads: results must not depend on that. A
   * part costs a partial result in memory, so short page tables make few. */
  TOKENS_PER_PART = 512,
  LEAST_PARTS = 8,
  MOST_PARTS = 128,   /* and threads */
  KEY_ROWS = 2,       /* bringing a token's key in takes as long as attending it with so many query rows */
  MERGE_ROWS = 16,    /* rows of one merge task */
  UNIT = 64,          /* tokens; what the three below count */
  START_OVERHEAD = 1, /* packing queries and writing results takes as long as attending 16 tokens */
  SPLIT_OVERHEAD = 1, /* a partial result and its merge as 64 */
  PIECE_UNITS = TOKENS_PER_PART / UNIT,
  MOST_SLOTS = 1 << 30
};

void fm_cpu_limits(const fm_work *work, fm_limits *limits) {
  const double group = work->h_q / work->h_kv;
  /* How a step does its sums depends on how many rows it has, so in batch-invariant work each token has its own tiles.
   * With a window it begins elsewhere than its neighbours. */
  const bool own_tiles = work->batch_invariant || work->own_items || work->window > 0;
  const double rows = own_tiles ? group : work->s_q * group;
  double tokens = (double)work->capacity + work->extra_capacity;
  if (work->window > 0) tokens = fmin(tokens, (double)work->window + work->s_q);
  double blocks = work->batch * ceil(work->s_q * group / FM_CPU_MOST_ROWS); /* of a KV head, at most */
  if (work->varlen) blocks = fmin(blocks, work->batch + work->total_q * group / FM_CPU_MOST_ROWS);
  if (work->own_items) blocks = work->varlen ? work->total_q : (double)work->batch * work->s_q;
  const double parts = blocks * work->h_kv * tokens / TOKENS_PER_PART;
  *limits = (fm_limits){
      .block_rows = rows < FM_CPU_MOST_ROWS ? (int32_t)rows : FM_CPU_MOST_ROWS,
      .max_cluster = 1,
      .workers = parts < LEAST_PARTS  ? LEAST_PARTS
                 : parts > MOST_PARTS ? MOST_PARTS
                                      : (int32_t)parts,
      .start_overhead = START_OVERHEAD,
      .split_overhead = SPLIT_OVERHEAD,
      .unit = UNIT,
      .piece_units = PIECE_UNITS,
      .partial_bytes = sizeof(float),
      .max_slots = MOST_SLOTS,
      .partial_facts = work->batch_invariant ? FM_CPU_ITEM_FACTS : 1,
  };
}

typedef struct job {
  const fm_attention *attention;
  const fm_key_source *source;
  const fm_cpu_elements *elements;
  const fm_cpu_step *step;
  char *scratch; /* scratch_bytes for each thread: the step's, what long pieces are added up in, what is folded,
                    queries, keys */
  size_t scratch_bytes, step_bytes, totals_bytes, folds_bytes, queries_bytes;
  atomic_llong next_part, next_merge;
  atomic_int attended; /* parts */
  fm_cpu_gate all_attended;
} job;

/* Every thread attends parts until none is left, waits for those still at work elsewhere, and takes merge tasks. Nobody
 * waits for a thread that may not exist: the thread that takes a part finishes it. */
static void work(void *context, int32_t thread) {
  job *job = context;
  const fm_attention *attention = job->attention;
  const int32_t parts = attention->tiling.num_parts;
  char *scratch = job->scratch + job->scratch_bytes * (size_t)thread;
  fm_piece_worker worker = {.source = job->source, .elements = job->elements, .step = job->step, .tile = -1};
  worker.scratch = scratch;
  worker.totals = scratch += job->step_bytes;
  worker.folds = scratch += job->totals_bytes;
  worker.queries = scratch += job->folds_bytes;
  worker.keys = scratch + job->queries_bytes;
  const bool invariant = attention->tiling.piece_units > 0;
  void (*const attend)(const fm_attention *, fm_piece_worker *, int32_t) =
      invariant ? fm_attend_invariant_part : fm_attend_part;
  void (*const join)(const fm_attention *, const fm_cpu_elements *, int32_t, int32_t, int32_t) =
      invariant ? fm_fold_partials : fm_merge_partials;
  int32_t done = 0;
  for (int64_t part; (part = atomic_fetch_add(&job->next_part, 1)) < parts; done++)
    attend(attention, &worker, (int32_t)part);
  if (!fm_may_split(&attention->tiling)) return;
  if (atomic_fetch_add(&job->attended, done) + done == parts) fm_cpu_gate_open(&job->all_attended);
  fm_cpu_gate_wait(&job->all_attended);
  const int64_t tasks_per_part = (attention->tiling.block_rows + MERGE_ROWS - 1) / MERGE_ROWS;
  for (int64_t task; (task = atomic_fetch_add(&job->next_merge, 1)) < parts * tasks_per_part;)
    join(attention, job->elements, (int32_t)(task / tasks_per_part), (int32_t)(task % tasks_per_part) * MERGE_ROWS,
         MERGE_ROWS);
}

static int32_t choose_threads(const fm_attention *attention, const fm_cpu_step *step, int32_t num_threads) {
  const fm_work *work = &attention->work;
  double flop = 0;
  int64_t units = 0; /* more threads than these have nothing to do */
  for (int32_t i = 0; i < work->batch; i++) {
    const int64_t length = fm_length_of(work, attention->tiling.unit, i);
    const double tokens = fm_query_range_of(work, i).count, bring = work->own_items ? tokens : work->h_kv;
    const double rows = tokens * work->h_q + KEY_ROWS * bring;
    flop += (double)length * rows * 2 * (attention->queries.d_qk + attention->d_v);
    units += fm_ceil_div(length, attention->tiling.unit) * attention->tiling.tiles_per_request;
  }
  const int64_t most = fm_min64(units, fm_min32(attention->tiling.num_parts, MOST_PARTS));
  return fm_cpu_threads_for(num_threads, (int32_t)most, flop / step->flop_per_thread);
}

flashmla_status fm_run_on_cpu(const fm_call *call, const fm_attention *attention, const fm_key_source *source,
                              int32_t num_threads) {
  const fm_cpu_isa *isa = fm_cpu_select();
  const int32_t rows = attention->tiling.block_rows;
  const fm_cpu_tile largest = fm_tile_of(attention, source, 1, rows);
  job job = {
      .attention = attention, .source = source, .elements = isa->elements, .step = fm_cpu_step_for(isa, &largest)};
  job.step_bytes = job.step->scratch_bytes(&largest);
  job.totals_bytes = (fm_piece_totals_bytes(attention) + 63) / 64 * 64;
  job.folds_bytes = fm_folds_bytes(attention);
  job.queries_bytes = fm_queries_bytes(attention);
  job.scratch_bytes = job.step_bytes + job.totals_bytes + job.folds_bytes + job.queries_bytes + source->room_bytes;
  int32_t threads = choose_threads(attention, job.step, num_threads);
  job.scratch = aligned_alloc(64, job.scratch_bytes * (size_t)threads);
  if (job.scratch == NULL) job.scratch = aligned_alloc(64, job.scratch_bytes * (size_t)(threads = 1));
  if (job.scratch == NULL)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for %d query rows (%zu bytes) could not be allocated",
                   rows, job.scratch_bytes);

  if (attention->own_plan) fm_schedule_on_host(&attention->work, &attention->tiling, attention->schedule);
  fm_cpu_parallel(threads, work, &job);
  free(job.scratch);

  fm_set_last_kernel(call->operation->cpu_kernels[attention->queries.dtype].name);
  return FLASHMLA_OK;
}
