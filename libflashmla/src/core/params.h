/* params.h - takes over a caller's struct, whichever version of the header the caller was compiled with. */
#ifndef FLASHMLA_CORE_PARAMS_H_
#define FLASHMLA_CORE_PARAMS_H_

#include <stddef.h>

#include "core/error.h"

/* A struct that begins with its struct_size. */
typedef struct fm_struct {
  const char *name; /* of the argument */
  uint32_t size;    /* as this library knows it */
  int32_t num_ends;
  const uint16_t *ends; /* where its first version ended, and every field behind that: no size may cut a field */
} fm_struct;
#define FM_END(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))
#define FM_STRUCT(argument, type, field_ends) \
  {.name = argument, .size = sizeof(type), .num_ends = sizeof(field_ends) / sizeof(field_ends)[0], .ends = field_ends}

/* The struct_size of a caller's struct, which is no NULL. */
flashmla_status fm_read_struct_size(const void *given, const fm_struct *known, uint32_t *size);
/* Where a caller's struct of `size` bytes says something that this library does not know: the first such byte, 0 for
 * none. */
uint32_t fm_used_behind(const void *given, const fm_struct *known, uint32_t size);
/* Copies the caller's params struct into *params, whose size is known->size; fields that the caller does not have
 * become 0. Sentences have the caller's names from then on. */
flashmla_status fm_read_params(const void *given, const fm_struct *known, void *params);

#endif /* FLASHMLA_CORE_PARAMS_H_ */
