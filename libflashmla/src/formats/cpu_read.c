/* cpu_read.c - tokens from the pages of a cache in host memory to rows. */
#include <stdatomic.h>
#include <string.h>

#include "core/arith.h"
#include "core/float_mode.h"
#include "cpu/threads.h"
#include "formats/cpu_tokens.h"
#include "formats/read.h"

enum {
  TASK_ROWS = 32, /* that a thread takes at a time */
  /* A thread should have so many to read at least: fm_cpu_threads_for's unit. */
  COLUMNS_PER_THREAD = 1 << 15
};

typedef struct job {
  const fm_read *read;
  const fm_cpu_elements *elements;
  float descale;
  atomic_llong next_task;
} job;

typedef struct place {
  bool wanted; /* the row is of a request */
  bool there;  /* in the cache; else zeros */
  int64_t block, row;
} place;

/* The last request that begins at `row` or before it. Offsets that are out of order give any. */
static int32_t request_of(const fm_read *read, int64_t row) {
  int32_t low = 0, high = read->batch; /* offsets up to `low` are not beyond the row, those from `high` on are */
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    if (read->cu_seqlens[middle * read->cu_seqlens_stride] <= row)
      low = middle;
    else
      high = middle;
  }
  return low;
}

static place place_of(const fm_read *read, int64_t row) {
  const fm_pages *pages = &read->pages;
  if (read->block_table == NULL)
    return (place){.wanted = true, .there = true, .block = row / pages->page_size, .row = row % pages->page_size};
  if (read->batch == 0) return (place){.wanted = false};
  const int64_t request = request_of(read, row);
  const int64_t begin = read->cu_seqlens[request * read->cu_seqlens_stride];
  if (row < begin || row >= read->cu_seqlens[(request + 1) * read->cu_seqlens_stride]) return (place){.wanted = false};
  const int64_t start = read->seq_starts != NULL ? read->seq_starts[request * read->seq_starts_stride] : 0;
  const int64_t token = start + row - begin, entry = token / pages->page_size;
  if (token < 0 || entry >= read->max_blocks) return (place){.wanted = true};
  const int32_t block = read->block_table[request * read->block_table_stride + entry];
  const bool there = block >= 0 && block < pages->num_blocks;
  return (place){.wanted = true, .there = there, .block = block, .row = token % pages->page_size};
}

static void read_row(const job *job, int64_t row) {
  const fm_read *read = job->read;
  const fm_pages *pages = &read->pages;
  const size_t bytes = (size_t)pages->columns * (size_t)fm_dtype_bytes(read->dtype);
  char *to = read->out + row * read->out_step;
  const place at = place_of(read, row);
  if (!at.wanted) return;
  if (!at.there) {
    memset(to, 0, bytes);
    return;
  }
  const fm_token from = fm_token_at(pages, at.block, at.row);
  if (fm_quantizes(pages->format))
    fm_dequantize_token(pages, from, job->descale, job->elements, read->dtype, to);
  else
    memcpy(to, from.row, bytes);
}

static void work(void *context, int32_t thread) {
  job *job = context;
  (void)thread;
  const fm_float_mode before = fm_set_float_mode(false); /* small columns are read as they are, as on a GPU */
  for (int64_t task; (task = atomic_fetch_add(&job->next_task, 1)) * TASK_ROWS < job->read->num_tokens;) {
    const int64_t end = fm_min64(job->read->num_tokens, (task + 1) * TASK_ROWS);
    for (int64_t row = task * TASK_ROWS; row < end; ++row) read_row(job, row);
  }
  fm_restore_float_mode(before);
}

static flashmla_status launch(fm_call *call, void *state) {
  const fm_read *read = state;
  job job = {.read = read,
             .elements = fm_cpu_elements_for(fm_cpu_select(), read->pages.columns),
             .descale = fm_descale_of(&read->pages)};
  const double elements = (double)read->num_tokens * read->pages.columns;
  const int32_t tasks = (int32_t)fm_min64(INT32_MAX, fm_ceil_div(read->num_tokens, TASK_ROWS));
  fm_cpu_parallel(fm_cpu_threads_for(read->num_threads, tasks, elements / COLUMNS_PER_THREAD), work, &job);
  fm_set_last_kernel(call->operation->cpu_kernels[0].name);
  return FLASHMLA_OK;
}

const fm_backend fm_gather_kv_cpu = {.launch = launch}, fm_dequantize_kv_cpu = {.launch = launch};
