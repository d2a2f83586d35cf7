/* tuning.h - tables of choices that were measured: read from a file, immutable, and asked by calls on a GPU. */
#ifndef FLASHMLA_TUNING_TUNING_H_
#define FLASHMLA_TUNING_TUNING_H_

#include <stdatomic.h>

#include "core/text.h"
#include "tuning/fields.h"

enum {
  FM_TUNING_VERSION = 1,
  FM_TUNING_MOST_BYTES = 16 << 20,
  FM_TUNING_MOST_ENTRIES = 1 << 14, /* of a file that is written: it can be read */
  FM_TUNING_NAME_BYTES = 128,
  FM_TUNING_PROBLEM_BYTES = 256,
  FM_TUNING_DEVICES = 64
};

/* Where entries were measured. */
typedef struct fm_tuning_machine {
  char gpu[FM_TUNING_NAME_BYTES];
  int32_t arch, processors, driver; /* as fm_device and fm_driver have them */
} fm_tuning_machine;

/* What a file holds, or why it is refused. Made once and kept for ever, since any thread may be reading it: the same
 * content has the same table. */
typedef struct fm_tuning {
  struct fm_tuning *next;
  const char *path;                      /* behind the entries */
  char problem[FM_TUNING_PROBLEM_BYTES]; /* "is ...", behind the file's name; "": none */
  fm_tuning_machine machine;
  _Atomic(int8_t) fits[FM_TUNING_DEVICES]; /* of the devices: 0 not looked at, 1 it was measured there, -1 elsewhere */
  int32_t count;
  fm_tuning_entry entries[]; /* sorted */
} fm_tuning;

/* file.c: text of a file -> table. NULL: no memory. */
fm_tuning *fm_read_tuning(const char *path, const char *text, size_t bytes);
/* The text of a file; NULL: no memory. To be freed. */
char *fm_tuning_text(const fm_tuning_machine *machine, const fm_tuning_entry *entries, int32_t count, size_t *bytes);

/* load.c: the table of now; NULL: none. */
const fm_tuning *fm_tuning_now(void);

/* What is known of a call, as an entry has it: the key, and the numbers that must lie in its ranges. */
typedef struct fm_tuning_shape {
  int32_t key[FM_TUNING_KEYS];
  bool any_format; /* the format is not known: what is measured must be the same for all */
  int32_t batch, capacity;
} fm_tuning_shape;

/* What is said of a call. */
typedef struct fm_tuned {
  bool found;
  int32_t kernel;     /* row of the table of GPU kernels and one more; 0: by rule */
  int32_t num_splits; /* 0: the scheduler's */
  int32_t l2_policy;  /* flashmla_l2_policy */
} fm_tuned;

/* find.c: in a table, whatever device it is for. */
fm_tuned fm_find_tuned(const fm_tuning *table, const fm_tuning_shape *shape);

/* cuda_machine.c: of a device that there is. */
flashmla_status fm_tuning_machine_of(const char *argument, int32_t device_id, fm_tuning_machine *machine);
/* Whether a table that is not refused was measured on such a device. False too where there is none. */
bool fm_tuning_fits(const fm_tuning *table, int32_t device_id);
/* "NVIDIA H100 (sm_90, 132 processors, driver 12.4)" */
void fm_describe_tuning_machine(const fm_tuning_machine *machine, char *text, size_t size);

#endif /* FLASHMLA_TUNING_TUNING_H_ */
