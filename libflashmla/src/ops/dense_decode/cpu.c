/* cpu.c - dense_decode on host memory: keys are the rows of its pages. */
#include "attention/cpu_run.h"
#include "attention/keys.h"
#include "core/float_mode.h"
#include "ops/dense_decode/dense_decode.h"

/* What the keys come from. */
typedef struct source {
  const fm_dense_decode *decode;
  fm_key_reader reader;
} source;

/* Page of the cache that holds page `page` of the request; NULL: outside the cache, a page of zeros. */
static char *page_of(const fm_dense_decode *decode, const fm_rows *rows, int64_t page) {
  const fm_paged *paged = &decode->paged;
  const fm_pages *pages = &paged->pages;
  const int32_t block = paged->block_table[rows->request * paged->block_table_stride + page];
  if (block < 0 || block >= pages->num_blocks) return NULL;
  return pages->data + block * pages->block_step + rows->kv_head * pages->head_step;
}

static int32_t take_keys(const source *source, fm_key_walk *walk, const void *keys[], int32_t have, int32_t wanted) {
  const fm_pages *pages = &source->decode->paged.pages;
  for (; have < wanted && walk->item < walk->end; have++, walk->item++, walk->in_page++) {
    if (walk->in_page < 0 || walk->in_page == pages->page_size) {
      walk->page = page_of(source->decode, walk->rows, walk->item / pages->page_size);
      walk->in_page = walk->item % pages->page_size;
    }
    keys[have] = NULL;
    if (walk->page == NULL) continue;
    keys[have] = fm_read_key(&source->reader, pages, fm_token_in(pages, walk->page, walk->in_page), walk->room, have);
  }
  return have;
}

static int32_t next_keys(const void *call, fm_key_walk *walk, const void *keys[], int32_t have, int32_t wanted) {
  const source *source = call;
  if (!fm_quantizes(source->decode->paged.pages.format)) return take_keys(source, walk, keys, have, wanted);
  const fm_float_mode before = fm_set_float_mode(false); /* small columns are read as they are, as on a GPU */
  have = take_keys(source, walk, keys, have, wanted);
  fm_restore_float_mode(before);
  return have;
}

static flashmla_status run(fm_call *call, void *state) {
  const fm_dense_decode *decode = state;
  const fm_format *format = decode->paged.pages.format;
  const fm_queries *queries = &decode->attention.queries;
  fm_attention attention = decode->attention;
  source source = {.decode = decode, .reader = fm_key_reader_of(queries, fm_quantizes(format))};
  if (format->scale == FM_SCALE_CALL) fm_attend_codes(&decode->paged.pages, &source.reader, &attention);
  const fm_key_source keys = {
      .call = &source, .dtype = queries->dtype, .room_bytes = source.reader.room_bytes, .next = next_keys};
  FM_TRY(fm_check_values_on_host(decode));
  return fm_run_on_cpu(call, &attention, &keys, decode->num_threads);
}

static flashmla_status launch(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  return fm_with_values_taken(call, &decode->attention, run, decode);
}

const fm_backend fm_dense_decode_cpu = {.launch = launch};
