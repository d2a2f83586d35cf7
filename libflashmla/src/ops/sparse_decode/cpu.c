/* cpu.c - sparse_decode on host memory: keys are the rows of the slots that a query token selects, without those that
 * are none. Rows of a format that quantises are dequantised into memory of the thread. */
#include "attention/cpu_run.h"
#include "attention/keys.h"
#include "core/float_mode.h"
#include "ops/sparse_decode/sparse_decode.h"

enum { TOKENS_AHEAD = 8 /* whose rows are fetched while one is dequantised */ };

/* What the keys come from. */
typedef struct source {
  const fm_sparse_decode *decode;
  fm_key_reader reader;
} source;

/* Neighbouring items of one selection. */
typedef struct run {
  const fm_selection *selection;
  int64_t first;      /* number of the query token's first index */
  int64_t begin, end; /* items; the index of item i has the number first + i - begin */
} run;

static run run_at(const fm_sparse_decode *decode, const fm_rows *rows, int64_t item) {
  const fm_attention *attention = &decode->attention;
  const int64_t items = fm_items_of(&attention->work, rows->request);
  const int64_t extra_begin = fm_extra_begin(&attention->work, attention->tiling.unit, rows->request);
  const bool is_extra = item >= items;
  const fm_selection *selection = &decode->selections[is_extra ? FM_EXTRA : FM_MAIN];
  return (run){.selection = selection,
               .first = fm_first_index(selection, rows->request, rows->queries.begin + rows->first_token),
               .begin = is_extra ? extra_begin : 0,
               .end = is_extra ? rows->length : items};
}

/* Where the token of an item lies; row NULL: there is none. */
static fm_token token_of(const run *run, int64_t item) {
  const fm_pages *pages = &run->selection->pages;
  const int64_t slot = fm_index_at(run->selection, run->first + item - run->begin);
  if (slot < 0 || slot >= fm_slots_of(pages)) return (fm_token){NULL, NULL};
  return fm_token_at(pages, slot / pages->page_size, slot % pages->page_size);
}

static void fetch(const run *run, int64_t item) {
  if (item >= run->end) return;
  const fm_token token = token_of(run, item);
  const int64_t bytes = token.row != NULL ? run->selection->pages.row_step : 0;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(token.row + i, 0, 3);
}

static int32_t next_keys(const void *call, fm_key_walk *walk, const void *keys[], int32_t have, int32_t wanted) {
  const source *source = call;
  const fm_float_mode before = fm_set_float_mode(false); /* small columns are read as they are, as on a GPU */
  while (have < wanted && walk->item < walk->end) {
    const run run = run_at(source->decode, walk->rows, walk->item);
    const fm_pages *pages = &run.selection->pages;
    const int64_t end = fm_min64(run.end, walk->end);
    if (walk->item < run.begin) walk->item = run.begin; /* the last unit of the main selection is not full */
    for (; have < wanted && walk->item < end; walk->item++) {
      const fm_token token = token_of(&run, walk->item);
      if (fm_quantizes(pages->format)) fetch(&run, walk->item + TOKENS_AHEAD);
      if (token.row == NULL) continue;
      keys[have] = fm_read_key(&source->reader, pages, token, walk->room, have);
      have++;
    }
  }
  fm_restore_float_mode(before);
  return have;
}

static flashmla_status attend(fm_call *call, void *state) {
  const fm_sparse_decode *decode = state;
  const fm_queries *queries = &decode->attention.queries;
  bool quantizes = false;
  for (int which = FM_MAIN; which < FM_SELECTIONS; which++) {
    const fm_format *format = decode->selections[which].pages.format;
    quantizes = quantizes || (format != NULL && fm_quantizes(format));
  }
  const source source = {.decode = decode, .reader = fm_key_reader_of(queries, quantizes)};
  const fm_key_source keys = {
      .call = &source, .dtype = queries->dtype, .room_bytes = source.reader.room_bytes, .next = next_keys};
  FM_TRY(fm_check_sparse_values_on_host(decode));
  return fm_run_on_cpu(call, &decode->attention, &keys, decode->num_threads);
}

static flashmla_status launch(fm_call *call, void *state) {
  fm_sparse_decode *decode = state;
  return fm_with_values_taken(call, &decode->attention, attend, decode);
}

const fm_backend fm_sparse_decode_cpu = {.launch = launch};
