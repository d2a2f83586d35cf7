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

void fm_note(fm_finding *finding, bool wrong, int32_t request, int64_t position, int32_t value, int32_t limit) {
  if (!wrong) return;
  if (finding->found++ > 0) return;
  finding->request = request;
  finding->position = (int32_t)position;
  finding->value = value;
  finding->limit = limit;
}

flashmla_status fm_fail_finding(fm_value value, const fm_finding *f, uint64_t count, const char *where) {
  const flashmla_status status = FLASHMLA_ERROR_TENSOR_VALUE;
  const unsigned long long n = count;
  const char *s = n == 1 ? "" : "s";
  switch (value) {
    case FM_VALUE_LENGTH:
      return fm_fail(status,
                     "%scache_seqlens has %llu length%s out of range: cache_seqlens[%d] is %d; it must be in [0, %d]",
                     where, n, s, f->position, f->value, f->limit);
    case FM_VALUE_OFFSET:
      return fm_fail(status,
                     "%scu_seqlens_q has %llu offset%s out of range: cu_seqlens_q[%d] is %d; it must be in [0, %d]",
                     where, n, s, f->position, f->value, f->limit);
    case FM_VALUE_ORDER:
      return fm_fail(
          status,
          "%scu_seqlens_q has %llu offset%s out of order: cu_seqlens_q[%d] is %d; it must be at least the one "
          "before it, %d",
          where, n, s, f->position, f->value, f->limit);
    case FM_VALUE_COUNT:
      return fm_fail(
          status,
          "%scu_seqlens_q has %llu request%s of too many query tokens: request %d has %d; {params.|}max_seqlen_q "
          "is %d",
          where, n, s, f->request, f->value, f->limit);
    case FM_VALUE_PAGE:
      return fm_fail(
          status, "%sblock_table has %llu page number%s out of range: block_table[%d, %d] is %d; it must be in [0, %d)",
          where, n, s, f->request, f->position, f->value, f->limit);
    default:
      return fm_fail(status,
                     "%sglobal_seqlens has %llu length%s out of range: global_seqlens[%d] is %d; it must be >= 0",
                     where, n, s, f->position, f->value);
  }
}
