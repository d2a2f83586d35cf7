/* decode.c - one dense decode call on host memory: schedule, attend the parts with several threads, merge. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "arith.h"
#include "cpu.h"

enum {
  /* The number of parts follows from the shapes, never from the number of threads: results must not depend on that. A
   * part costs a partial result in memory, so short page tables make few. */
  TOKENS_PER_PART = 512,
  LEAST_PARTS = 8,
  MOST_PARTS = 128,          /* and threads */
  FLOP_PER_THREAD = 4 << 20, /* each further thread needs 4 MFLOP to do: about the 30 us that starting it takes */
  MERGE_ROWS = 16,           /* rows of one merge task */
  MANY_ROWS = 32,            /* more rows use the keys of a step so often that they may lie in level 2 */
  /* Tokens of a step, multiples of 12 (see fm_cpu_kernels.logits): with 128 query rows all fits 1 MB of level 2. */
  TOKENS_MANY_ROWS = 72,
  TOKENS_FEW_ROWS = 12 /* and the keys alone fit level 1 */
};

void fm_cpu_limits(const fm_problem *problem, fm_backend_limits *limits) {
  const int32_t page = problem->page_size;
  const double rows = (double)problem->s_q * (problem->h_q / problem->h_kv);
  const double tiles = (double)problem->batch * problem->h_kv * ceil(rows / FM_CPU_BLOCK_ROWS);
  const double parts = tiles * problem->max_blocks * page / TOKENS_PER_PART;
  *limits = (fm_backend_limits){
      .block_rows = rows < FM_CPU_BLOCK_ROWS ? (int32_t)rows : FM_CPU_BLOCK_ROWS,
      .max_cluster = 1,
      .workers = parts < LEAST_PARTS  ? LEAST_PARTS
                 : parts > MOST_PARTS ? MOST_PARTS
                                      : (int32_t)parts,
      /* In pages: packing queries and writing results takes as long as attending 16 tokens, a partial result and its
       * merge as 64. */
      .start_overhead = 1 + (16 - 1) / page,
      .split_overhead = 1 + (64 - 1) / page,
  };
}

typedef struct job {
  const fm_run *run;
  const fm_cpu_kernels *kernels;
  fm_cpu_scratch *scratch; /* one per thread */
  atomic_llong next_part, next_merge;
  pthread_mutex_t lock;
  pthread_cond_t all_attended;
  int32_t attended; /* parts; under lock */
} job;

static void attend_part(const fm_run *run, const fm_cpu_kernels *kernels, fm_cpu_scratch *scratch, int32_t part) {
  const fm_cut from = run->cuts[part], to = run->cuts[part + 1];
  for (int32_t tile = from.tile; tile < to.tile || (tile == to.tile && to.page > 0); tile++) {
    const int32_t first = tile == from.tile ? from.page : 0;
    const int32_t last = tile == to.tile ? to.page : -1;
    if (first == last) return; /* an empty part: both cuts are the same */
    const bool whole = first == 0 && last < 0;
    fm_cpu_attend_piece(run, kernels, scratch, tile, first, last, whole ? -1 : 2 * part + (first == 0));
  }
}

/* Every thread attends parts until none is left, waits for those still at work elsewhere, and takes merge tasks. Nobody
 * waits for a thread that may not exist: the thread that takes a part finishes it. */
static void work(void *context, int32_t thread) {
  job *job = context;
  const fm_run *run = job->run;
  const int32_t parts = run->tiling.num_parts;
  int32_t done = 0;
  for (int64_t part; (part = atomic_fetch_add(&job->next_part, 1)) < parts; done++)
    attend_part(run, job->kernels, &job->scratch[thread], (int32_t)part);
  if (run->partial == NULL) return;
  pthread_mutex_lock(&job->lock);
  job->attended += done;
  if (job->attended == parts) pthread_cond_broadcast(&job->all_attended);
  while (job->attended < parts) pthread_cond_wait(&job->all_attended, &job->lock);
  pthread_mutex_unlock(&job->lock);
  const int64_t tasks_per_part = (run->tiling.block_rows + MERGE_ROWS - 1) / MERGE_ROWS;
  for (int64_t task; (task = atomic_fetch_add(&job->next_merge, 1)) < parts * tasks_per_part;)
    fm_cpu_merge(run, job->kernels, (int32_t)(task / tasks_per_part), (int32_t)(task % tasks_per_part) * MERGE_ROWS,
                 MERGE_ROWS);
}

static int32_t choose_threads(const fm_run *run) {
  const fm_problem *problem = &run->problem;
  double flop = 0;
  for (int32_t i = 0; i < problem->batch; i++)
    flop += (double)fm_cpu_length(problem, i) * problem->s_q * problem->h_q * 2 * (FM_CPU_D_QK + FM_CPU_D_V);
  const int32_t most = fm_min32(fm_cpu_num_threads(problem->num_threads), fm_min32(run->tiling.num_parts, MOST_PARTS));
  return flop / FLOP_PER_THREAD < most ? 1 + fm_min32((int32_t)(flop / FLOP_PER_THREAD), most - 1) : most;
}

/* Carves `scratch` out of `memory`; NULL: only counts. Returns the bytes of one thread. */
static size_t lay_out_scratch(fm_cpu_scratch *scratch, char *memory, int32_t rows, int32_t tokens) {
  const int32_t padded = (rows + 15) / 16 * 16; /* 16: floats in the longest vector, and in 64 bytes */
  const size_t queries = (size_t)padded * FM_CPU_D_QK, keys = (size_t)tokens * FM_CPU_D_QK;
  const size_t weights = (size_t)tokens * FM_CPU_WEIGHT_STRIDE, sums = (size_t)padded * FM_CPU_D_V;
  if (memory != NULL) {
    float *at = (float *)memory;
    scratch->tokens = tokens;
    scratch->tile = -1;
    scratch->queries = at;
    scratch->keys = at += queries;
    scratch->weights = at += keys;
    scratch->sums = at += weights;
    scratch->row_max = at += sums;
    scratch->row_sum = at += padded;
    scratch->rescale = at += padded;
  }
  return sizeof(float) * (queries + keys + weights + sums + 3 * (size_t)padded);
}

flashmla_status fm_cpu_dense_decode(const fm_run *run) {
  const int32_t rows = run->tiling.block_rows;
  const int32_t tokens = rows > MANY_ROWS ? TOKENS_MANY_ROWS : TOKENS_FEW_ROWS;
  const size_t bytes = lay_out_scratch(NULL, NULL, rows, tokens);
  int32_t threads = choose_threads(run);
  fm_cpu_scratch *scratch = NULL;
  char *memory = NULL;
  for (;; threads = 1) { /* without memory for all threads, one does it */
    scratch = malloc(sizeof(fm_cpu_scratch) * (size_t)threads);
    memory = scratch == NULL ? NULL : aligned_alloc(64, bytes * (size_t)threads);
    if (memory != NULL) break;
    free(scratch);
    if (threads == 1)
      return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for %d query rows (%zu bytes) could not be allocated",
                     (int)rows, bytes);
  }
  for (int32_t i = 0; i < threads; i++) lay_out_scratch(&scratch[i], memory + bytes * (size_t)i, rows, tokens);

  if (run->make_plan) fm_schedule_on_host(&run->problem, &run->tiling, run->cuts, run->cost_before);
  job job = {.run = run, .kernels = fm_cpu_select(), .scratch = scratch};
  pthread_mutex_init(&job.lock, NULL);
  pthread_cond_init(&job.all_attended, NULL);
  fm_cpu_parallel(threads, work, &job);
  pthread_cond_destroy(&job.all_attended);
  pthread_mutex_destroy(&job.lock);
  free(memory);
  free(scratch);

  flashmla_kernel_info info;
  fm_cpu_kernel_at((int32_t)run->problem.dtype, &info);
  fm_set_last_kernel(info.name);
  return FLASHMLA_OK;
}
