/* cpu.c - dense_decode on host memory: keys are the rows of its pages. */
#include "attention/cpu_run.h"
#include "ops/dense_decode/dense_decode.h"

/* Page of the cache that holds page `page` of the request; NULL: outside the cache, a page of zeros. */
static const char *page_of(const fm_dense_decode *decode, const fm_rows *rows, int64_t page) {
  const fm_paged *paged = &decode->paged;
  const int32_t block = paged->block_table[rows->request * paged->block_table_stride + page];
  if (block < 0 || block >= paged->num_blocks) return NULL;
  const int64_t element = block * paged->cache_stride[0] + rows->kv_head * paged->cache_stride[2];
  return (const char *)paged->cache + element * fm_dtype_bytes(paged->dtype);
}

static int32_t next_keys(const void *call, fm_key_walk *walk, const void *keys[], int32_t have, int32_t wanted) {
  const fm_dense_decode *decode = call;
  const fm_paged *paged = &decode->paged;
  const int64_t stride = paged->cache_stride[1] * fm_dtype_bytes(paged->dtype);
  for (; have < wanted && walk->item < walk->end; have++, walk->item++, walk->in_page++) {
    if (walk->in_page < 0 || walk->in_page == paged->page_size) {
      walk->page = page_of(decode, walk->rows, walk->item / paged->page_size);
      walk->in_page = walk->item % paged->page_size;
    }
    keys[have] = walk->page == NULL ? NULL : walk->page + walk->in_page * stride;
  }
  return have;
}

static flashmla_status run(fm_call *call, void *state) {
  const fm_dense_decode *decode = state;
  const fm_key_source source = {.call = decode, .dtype = decode->paged.dtype, .next = next_keys};
  FM_TRY(fm_check_values_on_host(decode));
  return fm_run_on_cpu(call, &decode->attention, &source, decode->num_threads);
}

static flashmla_status launch(fm_call *call, void *state) {
  fm_dense_decode *decode = state;
  return fm_with_values_taken(call, &decode->attention, run, decode);
}

const fm_backend fm_dense_decode_cpu = {.launch = launch};
