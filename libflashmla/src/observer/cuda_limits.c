/* cuda_limits.c - the limits of a device, from what it says of itself. */
#include <string.h>

#include "core/params.h"
#include "cuda/device.h"

enum { DATA_RATE = 2 /* transfers of a clock */, BITS = 8, HOPPER = 90 };
/* FLOP of a clock of a processor's tensor cores, of bfloat16 and float16 without sparsity: H100 data sheet, 989 TFLOP/s
 * of 132 processors at 1.83 GHz. */
#define HOPPER_FLOP 4096

static const uint16_t ends[] = {FM_END(flashmla_device_limits, flop_per_second)};
static const fm_struct limits_struct = FM_STRUCT("limits", flashmla_device_limits, ends);

static flashmla_status read_limits(const fm_driver *driver, const fm_device *device, flashmla_device_limits *limits) {
  int memory_khz = 0, bus_bits = 0, clock_khz = 0;
  FM_DRIVER_TRY(driver, device_get_attribute, &memory_khz, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, device->handle);
  FM_DRIVER_TRY(driver, device_get_attribute, &bus_bits, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, device->handle);
  FM_DRIVER_TRY(driver, device_get_attribute, &clock_khz, CU_DEVICE_ATTRIBUTE_CLOCK_RATE, device->handle);
  limits->processors = device->processors;
  limits->l2_bytes = device->l2_bytes;
  limits->bytes_per_second = 1e3 * memory_khz * DATA_RATE * bus_bits / BITS;
  limits->flop_per_second = device->arch == HOPPER ? 1e3 * clock_khz * device->processors * HOPPER_FLOP : 0;
  return FLASHMLA_OK;
}

flashmla_status flashmla_device_limits_of(int32_t device_id, flashmla_device_limits *limits) {
  if (limits == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "limits is NULL; they go there");
  uint32_t size;
  FM_TRY(fm_read_struct_size(limits, &limits_struct, &size));
  flashmla_status status;
  const fm_driver *driver = fm_driver_open(&status);
  if (driver == NULL) return status;
  const fm_device *device;
  FM_TRY(fm_device_get(driver, "device_id", device_id, &device));
  flashmla_device_limits found = {.struct_size = size};
  FM_TRY(read_limits(driver, device, &found));
  memset((char *)limits + sizeof found, 0, size - sizeof found);
  memcpy(limits, &found, sizeof found);
  return FLASHMLA_OK;
}
