/* cpu.c - one dense decode call on host memory: schedule, attend the parts with several threads, merge. */
#include <math.h>
#include <stdlib.h>

#include "cpu/threads.h"
#include "ops/dense_decode/cpu_piece.h"

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

void fm_dense_decode_cpu_limits(const fm_dense_decode *decode, fm_limits *limits) {
  const fm_work *work = &decode->attention.work;
  const double group = work->h_q / work->h_kv;
  /* How a step does its sums depends on how many rows it has, so in batch-invariant work each token has its own tiles.
   */
  const double rows = work->batch_invariant ? group : work->s_q * group;
  const double tokens = (double)decode->paged.max_blocks * decode->paged.page_size; /* of a table row */
  double blocks = work->batch * ceil(work->s_q * group / FM_CPU_MOST_ROWS);         /* of a KV head, at most */
  if (work->varlen) blocks = fmin(blocks, work->batch + work->total_q * group / FM_CPU_MOST_ROWS);
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
  const fm_dense_decode *decode;
  const fm_cpu_elements *elements;
  const fm_cpu_step *step;
  char *scratch; /* scratch_bytes for each thread: the step's, what long pieces are added up in, what is folded */
  size_t scratch_bytes, step_bytes, totals_bytes;
  atomic_llong next_part, next_merge;
  atomic_int attended; /* parts */
  fm_cpu_gate all_attended;
} job;

/* Every thread attends parts until none is left, waits for those still at work elsewhere, and takes merge tasks. Nobody
 * waits for a thread that may not exist: the thread that takes a part finishes it. */
static void work(void *context, int32_t thread) {
  job *job = context;
  const fm_attention *attention = &job->decode->attention;
  const int32_t parts = attention->tiling.num_parts;
  char *scratch = job->scratch + job->scratch_bytes * (size_t)thread;
  fm_piece_worker worker = {.elements = job->elements,
                            .step = job->step,
                            .scratch = scratch,
                            .totals = scratch + job->step_bytes,
                            .folds = scratch + job->step_bytes + job->totals_bytes,
                            .tile = -1};
  const bool invariant = attention->tiling.piece_units > 0;
  void (*const attend)(const fm_dense_decode *, fm_piece_worker *, int32_t) =
      invariant ? fm_attend_invariant_part : fm_attend_part;
  void (*const join)(const fm_attention *, const fm_cpu_elements *, int32_t, int32_t, int32_t) =
      invariant ? fm_fold_partials : fm_merge_partials;
  int32_t done = 0;
  for (int64_t part; (part = atomic_fetch_add(&job->next_part, 1)) < parts; done++)
    attend(job->decode, &worker, (int32_t)part);
  if (!fm_may_split(&attention->tiling)) return;
  if (atomic_fetch_add(&job->attended, done) + done == parts) fm_cpu_gate_open(&job->all_attended);
  fm_cpu_gate_wait(&job->all_attended);
  const int64_t tasks_per_part = (attention->tiling.block_rows + MERGE_ROWS - 1) / MERGE_ROWS;
  for (int64_t task; (task = atomic_fetch_add(&job->next_merge, 1)) < parts * tasks_per_part;)
    join(attention, job->elements, (int32_t)(task / tasks_per_part), (int32_t)(task % tasks_per_part) * MERGE_ROWS,
         MERGE_ROWS);
}

static int32_t choose_threads(const fm_dense_decode *decode, const fm_cpu_step *step) {
  const fm_attention *attention = &decode->attention;
  const fm_work *work = &attention->work;
  double flop = 0;
  int64_t units = 0; /* more threads than these have nothing to do */
  for (int32_t i = 0; i < work->batch; i++) {
    const int64_t length = fm_length_of(work, i);
    const double rows = (double)fm_query_range_of(work, i).count * work->h_q + KEY_ROWS * work->h_kv;
    flop += (double)length * rows * 2 * (decode->paged.d_qk + attention->d_v);
    units += fm_ceil_div(length, attention->tiling.unit) * attention->tiling.tiles_per_request;
  }
  const int64_t most = fm_min64(units, fm_min32(attention->tiling.num_parts, MOST_PARTS));
  return fm_cpu_threads_for(decode->num_threads, (int32_t)most, flop / step->flop_per_thread);
}

static flashmla_status run(const fm_call *call, const fm_dense_decode *decode) {
  const fm_attention *attention = &decode->attention;
  FM_TRY(fm_check_values_on_host(decode));
  const fm_cpu_isa *isa = fm_cpu_select();
  job job = {.decode = decode,
             .elements = isa->elements,
             .step = fm_cpu_step_for(isa, decode->paged.q_dtype, decode->paged.cache_dtype)};
  const fm_cpu_tile largest = fm_tile_of(decode, 1, attention->tiling.block_rows);
  job.step_bytes = job.step->scratch_bytes(&largest);
  job.totals_bytes = (fm_piece_totals_bytes(decode) + 63) / 64 * 64;
  job.scratch_bytes = job.step_bytes + job.totals_bytes + fm_folds_bytes(decode);
  int32_t threads = choose_threads(decode, job.step);
  job.scratch = aligned_alloc(64, job.scratch_bytes * (size_t)threads);
  if (job.scratch == NULL) job.scratch = aligned_alloc(64, job.scratch_bytes * (size_t)(threads = 1));
  if (job.scratch == NULL)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for %d query rows (%zu bytes) could not be allocated",
                   (int)attention->tiling.block_rows, job.scratch_bytes);

  if (decode->own_plan) fm_schedule_on_host(&attention->work, &attention->tiling, attention->schedule);
  fm_cpu_parallel(threads, work, &job);
  free(job.scratch);

  fm_set_last_kernel(call->operation->cpu_kernels[decode->paged.q_dtype].name);
  return FLASHMLA_OK;
}

static flashmla_status launch(fm_call *call, void *state) { return fm_with_values_taken(call, state, run); }

const fm_backend fm_dense_decode_cpu = {.launch = launch};
