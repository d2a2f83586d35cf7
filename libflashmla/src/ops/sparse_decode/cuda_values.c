/* cuda_values.c - the checking mode of a step of sparse decode and of its plan: lengths and offsets that are clamped,
 * and indices that select nothing but do not say so by -1. */
#include "ops/sparse_decode/sparse_decode.h"

static void check_length(fm_finding *finding, const int32_t *lengths, int32_t request, int32_t most) {
  if (lengths == NULL) return;
  const int32_t length = lengths[request];
  fm_note(finding, length < 0 || length > most, request, request, length, most);
}

/* The first `count` indices of each query token of a request. */
static void check_indices(const fm_sparse_decode *decode, const fm_selection *selection, int32_t request, int64_t count,
                          fm_finding *finding) {
  const fm_work *work = &decode->attention.work;
  const fm_query_range queries = fm_query_range_of(work, request);
  const int64_t slots = fm_slots_of(&selection->pages);
  if (selection->indices == NULL) return;
  for (int32_t token = 0; token < queries.count; token++) {
    const int64_t first = fm_first_index(selection, request, queries.begin + token);
    for (int64_t i = 0; i < count; i++) {
      const int64_t slot = fm_index_at(selection, first + i);
      const bool wrong = slot < FM_NO_SLOT || slot >= slots;
      fm_note_index(finding, wrong, work->varlen ? -1 : request, queries.begin + token, i, slot, slots);
    }
  }
}

flashmla_status fm_check_sparse_values_on_host(const fm_sparse_decode *decode) {
  const fm_work *work = &decode->attention.work;
  fm_finding findings[FM_VALUES] = {{0}};
  if (!fm_checking()) return FLASHMLA_OK;
  for (int32_t i = 0; i < work->batch; i++) {
    check_length(&findings[FM_VALUE_TOPK_LENGTH], work->lengths, i, work->capacity);
    check_length(&findings[FM_VALUE_EXTRA_TOPK_LENGTH], work->extra_lengths, i, work->extra_capacity);
    fm_note_offsets(work, i, findings);
    check_indices(decode, &decode->selections[FM_MAIN], i, fm_items_of(work, i), &findings[FM_VALUE_INDEX]);
    check_indices(decode, &decode->selections[FM_EXTRA], i, fm_extra_items_of(work, i),
                  &findings[FM_VALUE_EXTRA_INDEX]);
  }
  return fm_tell_noted(findings);
}

flashmla_status fm_prepare_sparse_check(fm_sparse_decode *decode) {
  return fm_load_checker(decode->kernels.gpu, FM_KERNEL_CHECK_SPARSE_DECODE, decode->stream, &decode->checker);
}

flashmla_status fm_launch_sparse_check(const fm_sparse_decode *decode) {
  const fm_work *work = &decode->attention.work;
  const fm_selection *main = &decode->selections[FM_MAIN], *extra = &decode->selections[FM_EXTRA];
  if (!fm_will_check(&decode->checker)) return FLASHMLA_OK;
  const fm_check_sparse_decode_kernel_params params = {FM_INDICES_PARAMS(, main),
                                                       FM_INDICES_PARAMS(extra_, extra),
                                                       .lengths = work->lengths,
                                                       .capacity = work->capacity,
                                                       .extra_lengths = work->extra_lengths,
                                                       .extra_capacity = work->extra_capacity,
                                                       .cu_seqlens_q = work->cu_seqlens_q,
                                                       .total_q = work->total_q,
                                                       .s_q = work->s_q,
                                                       .batch = work->batch,
                                                       .findings = (int64_t *)(void *)decode->checker.findings};
  const int64_t tokens = (int64_t)work->batch * work->s_q;
  return fm_launch_checker(decode->kernels.gpu, &decode->checker, tokens, &params, decode->stream);
}
