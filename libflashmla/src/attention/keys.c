/* keys.c - see keys.h. */
#include "attention/keys.h"

#include "attention/check.h"

flashmla_status fm_check_keys(const fm_call *call, int32_t q, int32_t cache, const fm_queries *queries,
                              const fm_pages *pages) {
  const char *name = call->tensors.rows[cache].name;
  const fm_format *format = pages->format;
  if (pages->columns != queries->d_qk)
    return fm_fail(FLASHMLA_ERROR_SHAPE, "%s (d_qk) is %d; a row of %s in format \"%s\" has %d columns",
                   fm_name_d_qk(call, q).chars, queries->d_qk, name, format->name, pages->columns);
  if (fm_quantizes(format) && queries->dtype != FM_BF16)
    return fm_fail(FLASHMLA_ERROR_DTYPE, "q.dtype is %s; with %s in format \"%s\" it must be bfloat16",
                   fm_dtype_name((int32_t)queries->dtype), name, format->name);
  if (!fm_quantizes(format) && queries->dtype != pages->dtype)
    return fm_fail(FLASHMLA_ERROR_DTYPE, "%s.dtype is %s, q.dtype is %s; they must be equal in format \"%s\"", name,
                   fm_dtype_name((int32_t)pages->dtype), fm_dtype_name((int32_t)queries->dtype), format->name);
  return FLASHMLA_OK;
}
