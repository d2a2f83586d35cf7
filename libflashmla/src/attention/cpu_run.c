/* cpu_run.c - see cpu_run.h. */
#include "attention/cpu_run.h"

#include <math.h>
#include <stdlib.h>

#include "attention/cpu_fold.h"
#include "cpu/threads.h"

enum {
  /* The number of parts follows from the shapes, never from the number of threads: results must not depend on that. A
   * part costs a partial result in memory, unless one thread has all parts of its tile, so short page tables make
   * few. */
  TOKENS_PER_PART = 512,
  LEAST_PARTS = 8,
  MOST_PARTS = 128,   /* and threads */
  KEY_ROWS = 2,       /* bringing a token's key in takes as long as attending it with so many query rows */
  JOIN_ROWS = 16,     /* rows of one join task */
  MOST_KEPT = 2048,   /* tiles that are looked through for those of one thread */
  UNIT = 64,          /* tokens; what the three below count */
  START_OVERHEAD = 1, /* packing queries and writing results takes as long as attending 16 tokens */
  SPLIT_OVERHEAD = 1, /* a partial result and its join as 64 */
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
      .partial_facts = FM_CPU_PARTIAL_FACTS,
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
  int32_t kept, tile_parts; /* the first tiles, each cut into so many parts, are attended by one thread each */
  atomic_int next_task;     /* such a tile, or one of the other parts */
  atomic_llong next_join;
  atomic_int attended; /* parts */
  fm_cpu_gate all_attended;
} job;

static int64_t units_of(const fm_attention *attention, int32_t tile) {
  const fm_rows rows = fm_rows_of(attention, tile);
  return rows.count == 0 ? 0 : fm_ceil_div(rows.length - rows.first_item, attention->tiling.unit);
}

/* One thread attends all pieces of a tile, so that nothing has to be joined, as long as it is done with them when all
 * work would be if it were shared out evenly: the first tiles, up to one of which that is not so. How many these are
 * depends on the number of threads, the bits do not. Not inline: no stack is held by it while threads work. */
__attribute__((noinline)) static int32_t count_kept(const fm_attention *attention, int32_t threads,
                                                    int32_t tile_parts) {
  const fm_tiling *tiling = &attention->tiling;
  if (!fm_may_split(tiling) || tiling->piece_units > 0 || tile_parts < 2 || tiling->num_tiles > MOST_KEPT) return 0;
  int64_t all = 0, busy[MOST_PARTS] = {0}; /* of a thread */
  for (int32_t tile = 0; tile < tiling->num_tiles; tile++) all += units_of(attention, tile);
  for (int32_t tile = 0; tile < tiling->num_tiles; tile++) {
    int32_t first = 0; /* to be free again */
    for (int32_t i = 1; i < threads; i++)
      if (busy[i] < busy[first]) first = i;
    busy[first] += units_of(attention, tile);
    if (busy[first] > fm_ceil_div(all, threads)) return tile;
  }
  return tiling->num_tiles;
}

/* Whether a part belongs to a tile that one thread has. */
static bool is_kept(const job *job, int32_t part) {
  const int32_t first = part / job->tile_parts * job->tile_parts;
  return first < job->kept * job->tile_parts && fm_is_cut_tile(job->attention, first, first + job->tile_parts);
}

/* Attends parts; returns how many. */
static int32_t attend_task(const job *job, fm_piece_worker *worker, int32_t task) {
  const fm_attention *attention = job->attention;
  const bool tile = task < job->kept;
  const int32_t count = tile ? job->tile_parts : 1, before = tile ? 0 : job->kept;
  const int32_t first = before * job->tile_parts + (task - before) * count;
  if (is_kept(job, first)) {
    fm_attend_cut_tile(attention, worker, first, first + count);
    return count;
  }
  for (int32_t part = first; part < first + count; part++)
    (attention->tiling.piece_units > 0 ? fm_attend_invariant_part : fm_attend_part)(attention, worker, part);
  return count;
}

/* Every thread takes tasks until none is left, waits for those still at work elsewhere, and takes join tasks. Nobody
 * waits for a thread that may not exist: the thread that takes a task finishes it. */
static void work(void *context, int32_t thread) {
  job *job = context;
  const fm_attention *attention = job->attention;
  const int32_t parts = attention->tiling.num_parts, tasks = job->kept + parts - job->kept * job->tile_parts;
  char *scratch = job->scratch + job->scratch_bytes * (size_t)thread;
  fm_piece_worker worker = {.source = job->source, .elements = job->elements, .step = job->step, .tile = -1};
  worker.scratch = scratch;
  worker.totals = scratch += job->step_bytes;
  worker.folds = scratch += job->totals_bytes;
  worker.queries = scratch += job->folds_bytes;
  worker.keys = scratch + job->queries_bytes;
  int32_t done = 0;
  for (int32_t task; (task = atomic_fetch_add(&job->next_task, 1)) < tasks;) done += attend_task(job, &worker, task);
  if (!fm_may_split(&attention->tiling)) return;
  if (atomic_fetch_add(&job->attended, done) + done == parts) fm_cpu_gate_open(&job->all_attended);
  fm_cpu_gate_wait(&job->all_attended);
  void (*const join)(const fm_attention *, const fm_cpu_elements *, int32_t, int32_t, int32_t) =
      attention->tiling.piece_units > 0 ? fm_join_items : fm_join_pieces;
  const int64_t tasks_per_part = (attention->tiling.block_rows + JOIN_ROWS - 1) / JOIN_ROWS;
  for (int64_t task; (task = atomic_fetch_add(&job->next_join, 1)) < parts * tasks_per_part;) {
    const int32_t part = (int32_t)(task / tasks_per_part);
    if (is_kept(job, part)) continue;
    join(attention, job->elements, part, (int32_t)(task % tasks_per_part) * JOIN_ROWS, JOIN_ROWS);
  }
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

/* Sets of rows that a thread folds to. */
static int32_t sets_of(const fm_attention *attention) {
  if (attention->tiling.piece_units > 0) return FM_CPU_SETS_OF_ITEMS;
  return fm_may_split(&attention->tiling) ? FM_CPU_SETS_OF_PARTS : 0;
}

flashmla_status fm_run_on_cpu(const fm_call *call, const fm_attention *attention, const fm_key_source *source,
                              int32_t num_threads) {
  const fm_cpu_isa *isa = fm_cpu_select();
  const int32_t rows = attention->tiling.block_rows;
  const fm_cpu_tile largest = fm_tile_of(attention, source, 1, rows);
  job job = {
      .attention = attention, .source = source, .elements = isa->elements, .step = fm_cpu_step_for(isa, &largest)};
  job.step_bytes = job.step->scratch_bytes(&largest);
  job.totals_bytes = fm_piece_totals_bytes(attention);
  job.folds_bytes = fm_folds_bytes(attention, sets_of(attention));
  job.queries_bytes = fm_queries_bytes(attention);
  job.scratch_bytes = job.step_bytes + job.totals_bytes + job.folds_bytes + job.queries_bytes + source->room_bytes;
  int32_t threads = choose_threads(attention, job.step, num_threads);
  job.scratch = aligned_alloc(64, job.scratch_bytes * (size_t)threads);
  if (job.scratch == NULL) job.scratch = aligned_alloc(64, job.scratch_bytes * (size_t)(threads = 1));
  if (job.scratch == NULL)
    return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for %d query rows (%zu bytes) could not be allocated",
                   rows, job.scratch_bytes);

  if (attention->own_plan) fm_schedule_on_host(&attention->work, &attention->tiling, attention->schedule);
  job.tile_parts = fm_max32(attention->tiling.num_parts / attention->tiling.num_tiles, 1);
  job.kept = count_kept(attention, threads, job.tile_parts);
  fm_cpu_parallel(threads, work, &job);
  free(job.scratch);

  fm_set_last_kernel(call->operation->cpu_kernels[attention->queries.dtype].name);
  return FLASHMLA_OK;
}
