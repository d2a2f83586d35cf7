/* cpu_write.c - rows of tokens into the pages of a cache in host memory. */
#include <stdatomic.h>

#include "core/arith.h"
#include "core/float_mode.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "formats/codes.h"
#include "formats/tiles.h"
#include "formats/write.h"

/* A slot belongs to a task, whose tokens are written one after another: so a repeated slot holds one row whole, that of
 * the last. Neighbours belong together. Tasks are a power of two: every one of them looks at all slots. */
enum {
  TASKS_A_THREAD = 4,
  MOST_TASKS = 256,
  SLOTS_TOGETHER = 16,
  AT_ONCE = 64, /* columns, of a format whose scale the call has */
  /* A thread should have so many to write at least: fm_cpu_threads_for's unit. */
  COLUMNS_PER_THREAD = 1 << 14
};

typedef struct job {
  const fm_write *write;
  const fm_cpu_elements *elements;
  float descale;
  int32_t tasks;
  atomic_int next_task;
} job;

typedef struct columns {
  unsigned char given[FM_MOST_FORMAT_COLUMNS * sizeof(float)] __attribute__((aligned(64)));
  float widened[FM_MOST_FORMAT_COLUMNS] __attribute__((aligned(64)));
} columns;

static void copy_row(const fm_write *write, int64_t token, void *to) {
  memcpy(to, write->latent + token * write->latent_step, (size_t)write->latent_bytes);
  if (write->rope_bytes > 0)
    memcpy((char *)to + write->latent_bytes, write->rope + token * write->rope_step, (size_t)write->rope_bytes);
}

static void write_rope(const fm_write *write, const columns *row, char *to) {
  const fm_format *format = write->pages.format;
  const int32_t first = format->quantized, count = format->columns - first;
  if (write->dtype == FM_BF16) { /* bit by bit, NaN too */
    memcpy(to, row->given + (size_t)first * sizeof(uint16_t), (size_t)count * sizeof(uint16_t));
    return;
  }
  for (int32_t i = 0; i < count; ++i) ((uint16_t *)to)[i] = fm_bf16_of(row->widened[first + i]);
}

static void quantize_row(const job *job, int64_t token, fm_token to) {
  const fm_write *write = job->write;
  const fm_format *format = write->pages.format;
  columns row;
  copy_row(write, token, row.given);
  job->elements->widen[write->dtype](row.widened, row.given, format->columns);
  for (int32_t tile = 0; tile * format->tile < format->quantized; ++tile) {
    const int32_t first = tile * format->tile;
    const float scale =
        fm_quantize_tile((uint8_t *)to.row + first, row.widened + first, format->tile, write->unrounded);
    if (format->scale == FM_SCALE_FP32)
      ((float *)to.scales)[tile] = scale;
    else
      ((uint8_t *)to.scales)[tile] = fm_e8m0_of(scale);
  }
  write_rope(write, &row, to.row + format->rope_at);
}

static void encode_part(const job *job, const char *from, int32_t bytes, char *to) {
  const fm_dtype dtype = job->write->dtype;
  const int32_t width = fm_dtype_bytes(dtype), count = bytes / width;
  float widened[AT_ONCE] __attribute__((aligned(64)));
  for (int32_t first = 0; first < count; first += AT_ONCE) {
    const int32_t some = fm_min32(AT_ONCE, count - first);
    job->elements->widen[dtype](widened, from + (int64_t)first * width, some);
    fm_encode_columns((uint8_t *)to + first, widened, some, job->descale);
  }
}

static void encode_row(const job *job, int64_t token, char *to) {
  const fm_write *write = job->write;
  const int32_t latent = write->latent_bytes / fm_dtype_bytes(write->dtype);
  encode_part(job, write->latent + token * write->latent_step, write->latent_bytes, to);
  if (write->rope_bytes > 0) encode_part(job, write->rope + token * write->rope_step, write->rope_bytes, to + latent);
}

static void write_token(const job *job, int64_t token, int64_t slot) {
  const fm_pages *pages = &job->write->pages;
  const fm_token to = fm_token_at(pages, slot / pages->page_size, slot % pages->page_size);
  if (pages->format->scale == FM_SCALE_CALL)
    encode_row(job, token, to.row);
  else if (fm_quantizes(pages->format))
    quantize_row(job, token, to);
  else
    copy_row(job->write, token, to.row);
}

static void work(void *context, int32_t thread) {
  job *job = context;
  const fm_write *write = job->write;
  const uint64_t slots = (uint64_t)fm_slots_of(&write->pages);
  (void)thread;
  const fm_float_mode before = fm_set_float_mode(false); /* a quotient of small numbers need not be small */
  for (int32_t task; (task = atomic_fetch_add(&job->next_task, 1)) < job->tasks;)
    for (int64_t token = 0; token < write->num_tokens; ++token) {
      const uint64_t slot = (uint64_t)fm_slot_of(write, token);
      if (slot < slots && (slot / SLOTS_TOGETHER & (uint64_t)(job->tasks - 1)) == (uint64_t)task)
        write_token(job, token, (int64_t)slot);
    }
  fm_restore_float_mode(before);
}

static flashmla_status launch(fm_call *call, void *state) {
  const fm_write *write = state;
  const double elements = (double)write->num_tokens * write->pages.columns;
  const int32_t threads = fm_cpu_threads_for(write->num_threads, MOST_TASKS, elements / COLUMNS_PER_THREAD);
  int32_t tasks = 1;
  while (threads > 1 && tasks < TASKS_A_THREAD * threads && tasks < MOST_TASKS) tasks *= 2;
  job job = {.write = write,
             .elements = fm_cpu_elements_for(fm_cpu_select(), write->pages.columns),
             .descale = fm_descale_of(&write->pages),
             .tasks = tasks};
  fm_cpu_parallel(threads, work, &job);
  fm_set_last_kernel(call->operation->cpu_kernels[0].name);
  return FLASHMLA_OK;
}

const fm_backend fm_append_kv_cpu = {.launch = launch}, fm_quantize_kv_cpu = {.launch = launch};
