/* findings.c - see findings.h. */
#include "attention/findings.h"

#include <stdatomic.h>
#include <string.h>

#include "core/environment.h"

static atomic_bool checking;

static void take_check(const char *value, fm_text *problem) {
  const bool on = value != NULL && strcmp(value, "1") == 0;
  if (value != NULL && !on && strcmp(value, "0") != 0) fm_append(problem, "; it must be 0 or 1");
  atomic_store(&checking, on);
}

static const fm_variable check_variable = {"FLASHMLA_CHECK", take_check};
FM_VARIABLE(check_variable);

bool fm_checking(void) { return atomic_load_explicit(&checking, memory_order_relaxed); }

void fm_note_index(fm_finding *finding, bool wrong, int32_t request, int64_t token, int64_t position, int64_t value,
                   int64_t limit) {
  if (!wrong) return;
  if (finding->found++ > 0) return;
  finding->request = request;
  finding->token = token;
  finding->position = (int32_t)position;
  finding->value = value;
  finding->limit = limit;
}

void fm_note(fm_finding *finding, bool wrong, int32_t request, int64_t position, int64_t value, int64_t limit) {
  fm_note_index(finding, wrong, request, 0, position, value, limit);
}

void fm_note_offsets(const fm_work *work, int32_t request, fm_finding findings[FM_VALUES]) {
  if (work->cu_seqlens_q == NULL) return;
  const int32_t begin = work->cu_seqlens_q[request], end = work->cu_seqlens_q[request + 1];
  const int32_t count = (int32_t)(fm_clamp64(end, fm_clamp64(begin, 0, work->total_q), work->total_q) -
                                  fm_clamp64(begin, 0, work->total_q));
  fm_finding *offset = &findings[FM_VALUE_OFFSET];
  if (request == 0) fm_note(offset, begin < 0 || begin > work->total_q, request, 0, begin, work->total_q);
  fm_note(offset, end < 0 || end > work->total_q, request, (int64_t)request + 1, end, work->total_q);
  fm_note(&findings[FM_VALUE_ORDER], end < begin, request, (int64_t)request + 1, end, begin);
  fm_note(&findings[FM_VALUE_COUNT], count > work->s_q, request, request, count, work->s_q);
}

/* A sentence: what its tensor is called, how many values of which kind, one of them, the rule. */
typedef struct sentence {
  const char *where, *s; /* its begin; "s" of a plural */
  unsigned long long count;
  const fm_finding *finding;
} sentence;

static flashmla_status length_out_of_range(sentence told, const char *name) {
  const fm_finding *f = told.finding;
  return fm_fail(FLASHMLA_ERROR_TENSOR_VALUE,
                 "%s%s has %llu length%s out of range: %s[%d] is %lld; it must be in [0, %lld]", told.where, name,
                 told.count, told.s, name, f->position, (long long)f->value, (long long)f->limit);
}

static flashmla_status index_out_of_range(sentence told, const char *name) {
  const fm_finding *f = told.finding;
  fm_text place = {""};
  if (f->request >= 0) fm_append(&place, "%d, ", f->request);
  fm_append(&place, "%lld, %d", (long long)f->token, f->position);
  return fm_fail(FLASHMLA_ERROR_TENSOR_VALUE,
                 "%s%s has %llu slot%s out of range: %s[%s] is %lld; it must be in [0, %lld), or -1 for none",
                 told.where, name, told.count, told.s, name, place.chars, (long long)f->value, (long long)f->limit);
}

flashmla_status fm_fail_finding(fm_value value, const fm_finding *f, uint64_t count, const char *where) {
  const flashmla_status status = FLASHMLA_ERROR_TENSOR_VALUE;
  const sentence told = {.where = where, .s = count == 1 ? "" : "s", .count = count, .finding = f};
  const long long found = f->value, limit = f->limit;
  switch (value) {
    case FM_VALUE_LENGTH:
      return length_out_of_range(told, "cache_seqlens");
    case FM_VALUE_TOPK_LENGTH:
      return length_out_of_range(told, "topk_length");
    case FM_VALUE_EXTRA_TOPK_LENGTH:
      return length_out_of_range(told, "extra_topk_length");
    case FM_VALUE_INDEX:
      return index_out_of_range(told, "indices");
    case FM_VALUE_EXTRA_INDEX:
      return index_out_of_range(told, "extra_indices");
    case FM_VALUE_OFFSET:
      return fm_fail(status,
                     "%scu_seqlens_q has %llu offset%s out of range: cu_seqlens_q[%d] is %lld; it must be in [0, %lld]",
                     where, told.count, told.s, f->position, found, limit);
    case FM_VALUE_ORDER:
      return fm_fail(
          status,
          "%scu_seqlens_q has %llu offset%s out of order: cu_seqlens_q[%d] is %lld; it must be at least the one "
          "before it, %lld",
          where, told.count, told.s, f->position, found, limit);
    case FM_VALUE_COUNT:
      return fm_fail(
          status,
          "%scu_seqlens_q has %llu request%s of too many query tokens: request %d has %lld; {params.|}max_seqlen_q "
          "is %lld",
          where, told.count, told.s, f->request, found, limit);
    case FM_VALUE_PAGE:
      return fm_fail(
          status,
          "%sblock_table has %llu page number%s out of range: block_table[%d, %d] is %lld; it must be in [0, %lld)",
          where, told.count, told.s, f->request, f->position, found, limit);
    default:
      return fm_fail(status,
                     "%sglobal_seqlens has %llu length%s out of range: global_seqlens[%d] is %lld; it must be >= 0",
                     where, told.count, told.s, f->position, found);
  }
}

flashmla_status fm_tell_noted(const fm_finding findings[FM_VALUES]) {
  for (int value = 0; value < FM_VALUES; value++)
    if (findings[value].found > 0) return fm_fail_finding((fm_value)value, &findings[value], findings[value].found, "");
  return FLASHMLA_OK;
}
