/* params.c - see params.h. */
#include "core/params.h"

#include <string.h>

/* Bytes; far above any params struct: more is an uninitialised field, whose tail must not be read. */
enum { MAX_STRUCT_SIZE = 4096 };

flashmla_status fm_read_params(const void *given, uint32_t least_size, void *params, uint32_t known_size) {
  if (given == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "params is NULL; the struct is required");
  uint32_t size;
  memcpy(&size, given, sizeof size);
  if (size < least_size || size > MAX_STRUCT_SIZE)
    return fm_fail(FLASHMLA_ERROR_STRUCT_SIZE,
                   "params.struct_size is %u; it must be sizeof the struct, at least %u and at most %d", size,
                   least_size, MAX_STRUCT_SIZE);
  const unsigned char *bytes = given;
  for (uint32_t i = known_size; i < size; ++i)
    if (bytes[i] != 0)
      return fm_fail(FLASHMLA_ERROR_STRUCT_SIZE,
                     "params.struct_size is %u and byte %u is not 0; this library knows %u bytes, later ones must be 0",
                     size, i, known_size);
  const uint32_t used = size < known_size ? size : known_size;
  memcpy(params, given, used);
  memset((char *)params + used, 0, known_size - used);
  return FLASHMLA_OK;
}
