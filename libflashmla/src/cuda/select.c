/* select.c - which row of the kernel table does a call.
 *
 * The table lists the special before the general, so the first row that does a call is the fastest: kernels for pages
 * of 64 tokens before those for any page, and of two flavours of a kernel the one for newer drivers. What is left to
 * choose is how many blocks of query rows share a KV stream. FLASHMLA_FORCE_KERNEL names the dense_decode row that must
 * be taken instead; it is read in every call. */
#include <stdlib.h>
#include <string.h>

#include "cuda/kernels.h"
#include "tiling.h"
#include "try.h"

#define FORCE_KERNEL "FLASHMLA_FORCE_KERNEL"
#define LARGEST_CLUSTER 2

/* NULL if it does, else what it lacks. */
static const char *misfit(const fm_kernel *kernel, const fm_need *need) {
  if (kernel->operation != need->operation) return "another operation";
  if (kernel->dtype != need->dtype && kernel->dtype != FM_ANY_DTYPE) return "another dtype";
  if ((kernel->d_qk != 0 && kernel->d_qk != need->d_qk) || (kernel->d_v != 0 && kernel->d_v != need->d_v))
    return "other head dimensions";
  if (kernel->operation == FM_DENSE_DECODE && !kernel->any_page && need->page_size != FM_UNIT)
    return "pages of 64 tokens";
  if (need->cluster != 0 && kernel->cluster != need->cluster)
    return kernel->cluster > need->cluster ? "more than 64 query rows a KV head" : "other tiles of query rows";
  if (kernel->min_driver > need->driver_version) return "a newer driver";
  return NULL;
}

/* The row that FLASHMLA_FORCE_KERNEL names; *kernel is NULL where it is not set. */
static flashmla_status forced(const fm_kernel **kernel) {
  *kernel = NULL;
  const char *name = getenv(FORCE_KERNEL);
  if (!name || !*name) return FLASHMLA_OK;
  for (int32_t i = 0; i < fm_kernel_count; i++) {
    if (fm_kernels[i].operation != FM_DENSE_DECODE || strcmp(fm_kernels[i].name, name) != 0) continue;
    *kernel = &fm_kernels[i];
    return FLASHMLA_OK;
  }
  return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, FORCE_KERNEL " is \"%s\", which is no dense_decode kernel of this library",
                 name);
}

flashmla_status fm_kernel_select(const fm_need *need, const fm_kernel **kernel) {
  const fm_kernel *only = NULL;
  if (need->operation == FM_DENSE_DECODE) FM_TRY(forced(&only));
  if (only) {
    const char *why = misfit(only, need);
    if (why)
      return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, FORCE_KERNEL " is \"%s\", which does not fit the call: it is for %s",
                     only->name, why);
    *kernel = only;
    return FLASHMLA_OK;
  }
  for (int32_t i = 0; i < fm_kernel_count; i++) {
    if (misfit(&fm_kernels[i], need)) continue;
    *kernel = &fm_kernels[i];
    return FLASHMLA_OK;
  }
  return fm_fail(FLASHMLA_ERROR_UNSUPPORTED, "no kernel of this library fits the call on driver version %d",
                 need->driver_version);
}

/* Two blocks of query rows share what they read: half the traffic from L2. More of them, if they are cut alike, read it
 * in step and are better alone: none is joined by an idle one, and none waits for another. */
flashmla_status fm_kernel_cluster(const fm_problem *problem, bool balanced, int32_t processors, int32_t *cluster) {
  const fm_kernel *only;
  FM_TRY(forced(&only));
  const int64_t blocks = fm_row_blocks(problem, FM_UNIT);
  const bool alike = balanced && fm_cut_alike(problem, processors, problem->h_kv * blocks);
  const bool in_step = alike && blocks > LARGEST_CLUSTER;
  *cluster = only ? only->cluster : blocks > 1 && !in_step ? LARGEST_CLUSTER : 1;
  return FLASHMLA_OK;
}
