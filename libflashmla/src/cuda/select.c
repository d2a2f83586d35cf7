/* select.c - which row of the kernel table does a call.
 *
 * The table lists the special before the general, so the first row that does a call is the fastest: kernels for pages
 * of 64 tokens before those for any page, and of two flavours of a kernel the one for newer drivers.
 * FLASHMLA_FORCE_KERNEL names the row that must be taken instead where a call may be forced, and a tuning file one that
 * is taken where it does the call.
 */
#include <stdatomic.h>
#include <string.h>

#include "core/environment.h"
#include "core/log.h"
#include "cuda/kernels.h"
#include "formats/formats.h"

#define FORCE_KERNEL "FLASHMLA_FORCE_KERNEL"

const char *fm_kernel_family_name(fm_kernel_family family) {
  static const char *const names[FM_KERNEL_FAMILIES] = FM_KERNEL_FAMILY_NAMES;
  return names[family];
}

static bool other_element(int8_t row, int8_t need) { return row != FM_ANY_DTYPE && row != need; }

/* NULL if it does, else what it is for. */
static const char *misfit(const fm_kernel *kernel, const fm_need *need, int32_t arch, int32_t driver_version) {
  const fm_elements *row = &kernel->elements, *given = &need->elements;
  if (kernel->family != need->family) return "another operation";
  if (other_element(row->q, given->q) || other_element(row->cache, given->cache) || other_element(row->out, given->out))
    return "another dtype";
  if (kernel->kv_format != need->kv_format) return "another format of the cache";
  if ((kernel->d_qk != 0 && kernel->d_qk != need->d_qk) || (kernel->d_v != 0 && kernel->d_v != need->d_v))
    return "other head dimensions";
  if ((need->features & ~kernel->features) != 0) return need->lacking;
  if ((kernel->features & need->without) != 0) return "calls that permit what it rounds";
  if (kernel->batch_invariant != need->batch_invariant)
    return kernel->batch_invariant ? "batch-invariant calls" : "calls that are not batch invariant";
  if (need->cluster != 0 && kernel->cluster != need->cluster)
    return kernel->cluster > need->cluster ? "more than 64 query rows a KV head" : "other tiles of query rows";
  if (kernel->arch != arch) return "another architecture";
  if (kernel->min_driver > driver_version) return "a newer driver";
  return NULL;
}

bool fm_kernel_does(const fm_kernel *kernel, const fm_need *need, int32_t arch, int32_t driver_version) {
  return misfit(kernel, need, arch, driver_version) == NULL;
}

const fm_kernel *fm_kernel_find(const fm_need *need, int32_t arch, int32_t driver_version) {
  for (int32_t i = 0; i < fm_kernel_count; i++)
    if (fm_kernel_does(&fm_kernels[i], need, arch, driver_version)) return &fm_kernels[i];
  return NULL;
}

static _Atomic(const char *) forced; /* name; NULL: none */

static void take_name(const char *value, fm_text *problem) {
  int32_t row = 0;
  while (value != NULL && row < fm_kernel_count && strcmp(value, fm_kernels[row].name) != 0) row++;
  if (value != NULL && row == fm_kernel_count) fm_append(problem, ", which is no kernel of this library");
  atomic_store(&forced, value == NULL ? NULL : row < fm_kernel_count ? fm_kernels[row].name : fm_keep_text(value));
}

static const fm_variable force_kernel = {FORCE_KERNEL, take_name};
FM_VARIABLE(force_kernel);

flashmla_status fm_kernel_forced(fm_kernel_family family, const fm_kernel **kernel) {
  *kernel = NULL;
  const char *name = atomic_load_explicit(&forced, memory_order_acquire);
  if (!name) return FLASHMLA_OK;
  for (int32_t i = 0; i < fm_kernel_count; i++) {
    if (fm_kernels[i].family != family || strcmp(fm_kernels[i].name, name) != 0) continue;
    *kernel = &fm_kernels[i];
    return FLASHMLA_OK;
  }
  return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, FORCE_KERNEL " is \"%s\", which is no %s kernel of this library", name,
                 fm_kernel_family_name(family));
}

/* The choice with its reason: what the call is, and for what the rows of the family in front of it are. */
static void log_choice(const fm_need *need, const fm_kernel *chosen, const char *named_by, int32_t arch,
                       int32_t driver) {
  fm_text passed = {""};
  const char *before = NULL;
  int32_t rows = 0;
  for (const fm_kernel *kernel = fm_kernels; kernel < chosen && named_by == NULL; ++kernel) {
    const char *why = kernel->family == chosen->family ? misfit(kernel, need, arch, driver) : NULL;
    if (why == NULL) continue;
    ++rows;
    if (before == NULL || strcmp(before, why) != 0) fm_append(&passed, "%s%s", before != NULL ? "; " : "", why);
    before = why;
  }
  if (named_by != NULL)
    fm_log_once("%s: kernel %s, which %s names", fm_kernel_family_name(need->family), chosen->name, named_by);
  else
    fm_log_once(
        "%s: kernel %s, the first of the table that does the call on sm_%d and driver %d (format %s, %s, cluster "
        "%d%s); %d rows in front of it are for: %s",
        fm_kernel_family_name(need->family), chosen->name, arch, driver, fm_format_at(need->kv_format)->name,
        need->elements.q == FM_ANY_DTYPE ? "any q" : fm_dtype_name(need->elements.q), need->cluster,
        need->batch_invariant ? ", batch invariant" : "", rows, rows > 0 ? passed.chars : "-");
}

/* Whether any row of the family does. */
static bool reads_format(const fm_need *need) {
  for (int32_t i = 0; i < fm_kernel_count; i++)
    if (fm_kernels[i].family == need->family && fm_kernels[i].kv_format == need->kv_format) return true;
  return need->kv_format == FLASHMLA_KV_BF16; /* of rows that read no cache, too */
}

flashmla_status fm_kernel_select(const fm_need *need, int32_t arch, int32_t driver_version, const fm_kernel **kernel) {
  const fm_kernel *only = NULL;
  if (need->may_be_forced) FM_TRY(fm_kernel_forced(need->family, &only));
  if (only) {
    const char *why = misfit(only, need, arch, driver_version);
    if (why)
      return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, FORCE_KERNEL " is \"%s\", which does not fit the call: it is for %s",
                     only->name, why);
    *kernel = only;
    if (fm_logs()) log_choice(need, only, FORCE_KERNEL, arch, driver_version);
    return FLASHMLA_OK;
  }
  if (need->tuned != NULL && fm_kernel_does(need->tuned, need, arch, driver_version)) {
    *kernel = need->tuned;
    if (fm_logs()) log_choice(need, *kernel, "the tuning file", arch, driver_version);
    return FLASHMLA_OK;
  }
  fm_need wanted = *need;
  wanted.features |= need->preferred;
  *kernel = fm_kernel_find(&wanted, arch, driver_version);
  if (*kernel == NULL) {
    wanted = *need;
    *kernel = fm_kernel_find(&wanted, arch, driver_version);
  }
  if (*kernel != NULL) {
    if (fm_logs()) log_choice(&wanted, *kernel, NULL, arch, driver_version);
    return FLASHMLA_OK;
  }
  if (!reads_format(need))
    return fm_fail(FLASHMLA_ERROR_UNSUPPORTED,
                   "{params.|}%skv_format is \"%s\"; no %s kernel of this library reads it, the CPU does",
                   need->extra ? "extra_" : "", fm_format_at(need->kv_format)->name,
                   fm_kernel_family_name(need->family));
  return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "no %s kernel of this library fits the call on driver version %d",
                 fm_kernel_family_name(need->family), driver_version);
}

bool fm_kernel_for_arch(int32_t arch) {
  for (int32_t i = 0; i < fm_kernel_count; i++)
    if (fm_kernels[i].arch == arch) return true;
  return false;
}

fm_text fm_kernel_targets(void) {
  fm_text text = {""};
  for (int32_t i = 0; i < fm_kernel_count; i++)
    if (strstr(text.chars, fm_kernels[i].target) == NULL)
      fm_append(&text, "%s%s", text.chars[0] != '\0' ? ", " : "", fm_kernels[i].target);
  return text;
}
