/* cuda_findings.h - what the kernels of the checking mode have found on the CUDA devices (attention/findings.h). It
 * lies in pinned memory of the host, which is the only memory that the library asks the driver for, and which it keeps:
 * devices write it, also in replays of a captured graph, and the host reads it without waiting for them. */
#ifndef FLASHMLA_ATTENTION_CUDA_FINDINGS_H_
#define FLASHMLA_ATTENTION_CUDA_FINDINGS_H_

#include "attention/findings.h"
#include "cuda/launch.h"

/* The FM_VALUES findings of a device. The memory is made when it is asked for first, which cannot be while `stream` is
 * captured. */
flashmla_status fm_findings_of(fm_gpu gpu, void *stream, fm_finding **findings);
/* Fails if something was found on a device since it was told last: one kind of value a call. */
flashmla_status fm_tell_findings(int32_t device_id);

#endif /* FLASHMLA_ATTENTION_CUDA_FINDINGS_H_ */
