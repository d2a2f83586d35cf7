/* error.c - status texts and what each thread remembers: its last error sentence and its last kernel. */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"

enum { FM_SENTENCE_BYTES = 320 }; /* longer sentences are cut off */

/* Compiled with the default TLS model: initial-exec takes them from a reserve of about 1.6 kB that all dlopened
 * libraries of a process share in glibc. */
static _Thread_local char last_error[FM_SENTENCE_BYTES];
static _Thread_local const char *last_kernel = "";
static _Thread_local bool python_names;

static const char *const status_texts[] = {
    [FLASHMLA_OK] = "ok",
    [FLASHMLA_ERROR_NULL_POINTER] = "null pointer",
    [FLASHMLA_ERROR_STRUCT_SIZE] = "struct size",
    [FLASHMLA_ERROR_FLAGS] = "flags",
    [FLASHMLA_ERROR_DTYPE] = "dtype",
    [FLASHMLA_ERROR_SHAPE] = "shape",
    [FLASHMLA_ERROR_ZERO_EXTENT] = "zero extent",
    [FLASHMLA_ERROR_STRIDE] = "stride",
    [FLASHMLA_ERROR_ALIGNMENT] = "alignment",
    [FLASHMLA_ERROR_DEVICE] = "device",
    [FLASHMLA_ERROR_MIXED_DEVICES] = "mixed devices",
    [FLASHMLA_ERROR_OVERFLOW] = "overflow",
    [FLASHMLA_ERROR_VALUE] = "value",
    [FLASHMLA_ERROR_TENSOR_VALUE] = "tensor value",
    [FLASHMLA_ERROR_WORKSPACE_TOO_SMALL] = "workspace too small",
    [FLASHMLA_ERROR_PLAN_MISMATCH] = "plan mismatch",
    [FLASHMLA_ERROR_SEQUENCE] = "sequence",
    [FLASHMLA_ERROR_BLOCK] = "block",
    [FLASHMLA_ERROR_STATE] = "state",
    [FLASHMLA_ERROR_UNSUPPORTED] = "unsupported",
    [FLASHMLA_ERROR_ARCHITECTURE] = "architecture",
    [FLASHMLA_ERROR_NO_KERNELS] = "no kernels",
    [FLASHMLA_ERROR_NO_DRIVER] = "no driver",
    [FLASHMLA_ERROR_DRIVER] = "driver",
    [FLASHMLA_ERROR_CONTEXT_LOST] = "context lost",
    [FLASHMLA_ERROR_OUT_OF_MEMORY] = "out of memory",
    [FLASHMLA_ERROR_OUT_OF_BLOCKS] = "out of blocks",
    [FLASHMLA_ERROR_OUT_OF_HOST_BLOCKS] = "out of host blocks",
    [FLASHMLA_ERROR_TABLE_FULL] = "table full",
    [FLASHMLA_ERROR_CAPACITY] = "capacity",
    [FLASHMLA_ERROR_STAGING_BUSY] = "staging busy",
};

const char *flashmla_status_string(flashmla_status status) {
  const size_t index = (size_t)status; /* a negative number becomes a huge one */
  const size_t count = sizeof status_texts / sizeof status_texts[0];
  return index < count && status_texts[index] != NULL ? status_texts[index] : "unknown status";
}

const char *flashmla_last_error(void) { return last_error; }

const char *flashmla_last_kernel(void) { return last_kernel; }

void fm_use_names(uint32_t flags) { python_names = (flags & FLASHMLA_PYTHON_NAMES) != 0; }

/* Copies a text with one side of each "{C|Python}" in it, cut off where there is no more room. */
static void choose_names(const char *both, char *chosen, size_t size) {
  enum { BOTH, IN_C, IN_PYTHON } side = BOTH;
  size_t used = 0;
  for (; *both != '\0'; ++both) {
    if (*both == '{')
      side = IN_C;
    else if (*both == '|' && side == IN_C)
      side = IN_PYTHON;
    else if (*both == '}')
      side = BOTH;
    else if (used + 1 < size && (side == BOTH || (side == IN_PYTHON) == python_names))
      chosen[used++] = *both;
  }
  chosen[used] = '\0';
}

fm_text fm_named(const char *both) {
  fm_text text;
  choose_names(both, text.chars, sizeof text.chars);
  return text;
}

flashmla_status fm_fail(flashmla_status status, const char *format, ...) {
  va_list arguments;
  char chosen[FM_SENTENCE_BYTES];
  choose_names(format, chosen, sizeof chosen);
  va_start(arguments, format);
  vsnprintf(last_error, sizeof last_error, chosen, arguments);
  va_end(arguments);
  return status;
}

void fm_set_last_kernel(const char *name) { last_kernel = name; }
