/* params.h - takes over a caller's params struct, whichever version of the header the caller was compiled with. */
#ifndef FLASHMLA_CORE_PARAMS_H_
#define FLASHMLA_CORE_PARAMS_H_

#include "core/error.h"

/* Copies the caller's struct, which begins with its struct_size, into *params, whose size is `known_size`; fields that
 * the caller does not have become 0. `least_size`: that of the first version. */
flashmla_status fm_read_params(const void *given, uint32_t least_size, void *params, uint32_t known_size);

#endif /* FLASHMLA_CORE_PARAMS_H_ */
