/* cuda_findings.h - what the kernels of the checking mode have found on the CUDA devices (attention/findings.h). It
 * lies in pinned memory of the host, which the library asks the driver for and keeps: devices write it, also in replays
 * of a captured graph, and the host reads it without waiting for them. */
#ifndef FLASHMLA_ATTENTION_CUDA_FINDINGS_H_
#define FLASHMLA_ATTENTION_CUDA_FINDINGS_H_

#include "attention/findings.h"
#include "cuda/launch.h"

/* What the checking mode takes of a call on a GPU. */
typedef struct fm_checker {
  fm_loaded kernel;
  fm_finding *findings; /* the FM_VALUES ones of the device; NULL: the call was made or prepared without the mode */
} fm_checker;

/* Where the mode is on: loads the kernel of a family that looks at values. The memory of the findings is made when it
 * is asked for first, which cannot be while `stream` is captured. */
flashmla_status fm_load_checker(fm_gpu gpu, fm_kernel_family family, void *stream, fm_checker *checker);
/* Whether that was done and the mode still is on. */
bool fm_will_check(const fm_checker *checker);
/* Fails if something was found on the device since it was told last: one kind of value a call. Else launches. */
flashmla_status fm_launch_checker(fm_gpu gpu, const fm_checker *checker, int64_t blocks, const void *params,
                                  void *stream);

#endif /* FLASHMLA_ATTENTION_CUDA_FINDINGS_H_ */
