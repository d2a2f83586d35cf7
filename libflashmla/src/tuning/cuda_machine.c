/* cuda_machine.c - what a device is, for the keys of tuning files. */
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "cuda/device.h"
#include "tuning/tuning.h"

_Static_assert((int)FM_TUNING_DEVICES == (int)FM_MAX_DEVICES, "a table knows of every device");

flashmla_status fm_tuning_machine_of(const char *argument, int32_t device_id, fm_tuning_machine *machine) {
  flashmla_status status;
  const fm_driver *driver = fm_driver_open(&status);
  if (driver == NULL) return status;
  const fm_device *device;
  FM_TRY(fm_device_get(driver, argument, device_id, &device));
  memset(machine, 0, sizeof *machine);
  FM_DRIVER_TRY(driver, device_get_name, machine->gpu, sizeof machine->gpu - 1, device->handle);
  for (char *letter = machine->gpu; *letter != '\0'; ++letter)
    if (*letter == '\n') *letter = ' '; /* it is a line of a file */
  machine->arch = device->arch;
  machine->processors = device->processors;
  machine->driver = driver->version;
  return FLASHMLA_OK;
}

void fm_describe_tuning_machine(const fm_tuning_machine *machine, char *text, size_t size) {
  snprintf(text, size, "%s (sm_%d, %d processors, driver %d.%d)", machine->gpu, machine->arch, machine->processors,
           machine->driver / 1000, machine->driver % 1000 / 10);
}

/* As fm_tuning.fits; 0 where the device cannot be asked now. */
static int8_t compare(const fm_tuning *table, int32_t device_id) {
  fm_tuning_machine here;
  if (fm_tuning_machine_of("device_id", device_id, &here) != FLASHMLA_OK) return 0;
  const bool same = strcmp(here.gpu, table->machine.gpu) == 0 && here.arch == table->machine.arch &&
                    here.processors == table->machine.processors && here.driver == table->machine.driver;
  if (!same && fm_logs()) {
    char measured[FM_TUNING_PROBLEM_BYTES], found[FM_TUNING_PROBLEM_BYTES];
    fm_describe_tuning_machine(&table->machine, measured, sizeof measured);
    fm_describe_tuning_machine(&here, found, sizeof found);
    fm_log_once("tuning: \"%s\" is not used on device %d: it is for %s, the device is %s", table->path, device_id,
                measured, found);
  }
  return same ? 1 : -1;
}

bool fm_tuning_fits(const fm_tuning *table, int32_t device_id) {
  if (device_id < 0 || device_id >= FM_TUNING_DEVICES) return false;
  /* Kept in a table that nobody changes otherwise; threads that find it at once find the same. */
  _Atomic(int8_t) *known = (_Atomic(int8_t) *)(uintptr_t)&table->fits[device_id];
  int8_t fits = atomic_load_explicit(known, memory_order_relaxed);
  if (fits == 0) {
    fits = compare(table, device_id);
    atomic_store_explicit(known, fits, memory_order_relaxed);
  }
  return fits > 0;
}
