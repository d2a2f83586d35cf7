/* params.c - see params.h. */
#include "core/params.h"

#include <stdbool.h>
#include <string.h>

/* Bytes; far above any struct: more is an uninitialised field, whose tail must not be read. */
enum { MAX_STRUCT_SIZE = 4096 };

flashmla_status fm_read_struct_size(const void *given, const fm_struct *known, uint32_t *size) {
  memcpy(size, given, sizeof *size);
  if (*size < known->ends[0] || *size > MAX_STRUCT_SIZE)
    return fm_fail(FLASHMLA_ERROR_STRUCT_SIZE,
                   "%s.struct_size is %u; it must be sizeof the struct, at least %u and at most %d", known->name, *size,
                   known->ends[0], MAX_STRUCT_SIZE);
  bool whole = *size >= known->size;
  for (int32_t i = 0; i < known->num_ends; ++i) whole = whole || *size == known->ends[i];
  if (!whole)
    return fm_fail(FLASHMLA_ERROR_STRUCT_SIZE,
                   "%s.struct_size is %u, which is within a field; it must be sizeof the struct, %u in this library",
                   known->name, *size, known->size);
  return FLASHMLA_OK;
}

uint32_t fm_used_behind(const void *given, const fm_struct *known, uint32_t size) {
  for (uint32_t i = known->size; i < size; ++i)
    if (((const char *)given)[i] != 0) return i;
  return 0;
}

flashmla_status fm_read_params(const void *given, const fm_struct *known, void *params) {
  if (given == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "%s is NULL; the struct is required", known->name);
  uint32_t size;
  FM_TRY(fm_read_struct_size(given, known, &size));
  const uint32_t later = fm_used_behind(given, known, size);
  if (later != 0)
    return fm_fail(FLASHMLA_ERROR_STRUCT_SIZE,
                   "%s.struct_size is %u and byte %u is not 0; this library knows %u bytes, later ones must be 0",
                   known->name, size, later, known->size);
  const uint32_t used = size < known->size ? size : known->size;
  memcpy(params, given, used);
  memset((char *)params + used, 0, known->size - used);
  uint32_t flags; /* behind struct_size in every params struct */
  memcpy(&flags, (const char *)given + sizeof size, sizeof flags);
  fm_use_names(flags);
  return FLASHMLA_OK;
}
