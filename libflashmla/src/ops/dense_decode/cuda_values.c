/* cuda_values.c - the checking mode of a decode step and of its plan: lengths, offsets and page numbers that are
 * clamped. */
#include "attention/cuda_findings.h"
#include "ops/dense_decode/dense_decode.h"

static void check_pages(const fm_dense_decode *decode, int32_t request, fm_finding findings[FM_VALUES]) {
  const fm_work *work = &decode->attention.work;
  const fm_paged *paged = &decode->paged;
  const int32_t *table = paged->block_table + request * paged->block_table_stride;
  const int32_t count = fm_query_range_of(work, request).count;
  const fm_mask *mask = &decode->attention.mask;
  const int64_t items = fm_items_of(work, request);
  const int64_t length = fm_attended(mask, request, items, count, count - 1);
  const int32_t num_blocks = paged->pages.num_blocks;
  const int64_t pages = fm_ceil_div(length, paged->pages.page_size);
  if (count == 0) return; /* they are not read */
  const int64_t begin = fm_window_begin(mask, fm_attended(mask, request, items, count, 0));
  for (int64_t i = begin / paged->pages.page_size; i < pages; i++)
    fm_note(&findings[FM_VALUE_PAGE], table[i] < 0 || table[i] >= num_blocks, request, i, table[i], num_blocks);
}

flashmla_status fm_check_values_on_host(const fm_dense_decode *decode) {
  const fm_work *work = &decode->attention.work;
  const int32_t *global = decode->attention.mask.global_seqlens;
  fm_finding findings[FM_VALUES] = {{0}};
  if (!fm_checking()) return FLASHMLA_OK;
  for (int32_t i = 0; i < work->batch; i++) {
    const int32_t length = work->lengths[i];
    fm_note(&findings[FM_VALUE_LENGTH], length < 0 || length > work->capacity, i, i, length, work->capacity);
    if (global != NULL) fm_note(&findings[FM_VALUE_GLOBAL_LENGTH], global[i] < 0, i, i, global[i], 0);
    fm_note_offsets(work, i, findings);
    if (decode->paged.block_table != NULL) check_pages(decode, i, findings);
  }
  return fm_tell_noted(findings);
}

flashmla_status fm_prepare_check(fm_dense_decode *decode) {
  return fm_load_checker(decode->kernels.gpu, FM_KERNEL_CHECK_DECODE, decode->stream, &decode->checker);
}

flashmla_status fm_launch_check(const fm_dense_decode *decode) {
  const fm_work *work = &decode->attention.work;
  const fm_paged *paged = &decode->paged;
  const fm_shard shard = fm_shard_of(&decode->attention.mask);
  if (!fm_will_check(&decode->checker)) return FLASHMLA_OK;
  const fm_check_decode_kernel_params params = {.lengths = work->lengths,
                                                .capacity = work->capacity,
                                                .block_table = paged->block_table,
                                                .block_table_stride = paged->block_table_stride,
                                                .page_size = paged->pages.page_size,
                                                .num_blocks = paged->pages.num_blocks,
                                                .cu_seqlens_q = work->cu_seqlens_q,
                                                .total_q = work->total_q,
                                                .s_q = work->s_q,
                                                .batch = work->batch,
                                                .global_seqlens = decode->attention.mask.global_seqlens,
                                                .cp_period = shard.period,
                                                .cp_interleave = shard.interleave,
                                                .cp_offset = shard.offset,
                                                .window = decode->attention.mask.window,
                                                .causal = decode->attention.mask.causal,
                                                .findings = (int64_t *)(void *)decode->checker.findings};
  return fm_launch_checker(decode->kernels.gpu, &decode->checker, work->batch, &params, decode->stream);
}
