/* device.h - facts about the CUDA devices, and their contexts. */
#ifndef FLASHMLA_CUDA_DEVICE_H_
#define FLASHMLA_CUDA_DEVICE_H_

#include "cuda/driver.h"

enum { FM_MAX_DEVICES = 64 };

typedef struct fm_device {
  int32_t id; /* the driver's ordinal, DLPack's device_id */
  CUdevice handle;
  int32_t processors;
  int32_t l2_bytes;
  int32_t arch; /* 10 * major + minor */
} fm_device;

/* Read once; lives for ever. `argument`: whose value `id` is, for the sentence when there is no such device
 * (FLASHMLA_ERROR_DEVICE). */
flashmla_status fm_device_get(const fm_driver *driver, const char *argument, int32_t id, const fm_device **device);
/* Makes a context of the device current, if the current one is of another device or none is; *pushed tells
 * fm_device_leave. */
flashmla_status fm_device_enter(const fm_driver *driver, const fm_device *device, bool *pushed);
/* Makes its primary context current, whatever was. */
flashmla_status fm_device_enter_primary(const fm_driver *driver, const fm_device *device, bool *pushed);
void fm_device_leave(const fm_driver *driver, bool pushed);

#endif /* FLASHMLA_CUDA_DEVICE_H_ */
