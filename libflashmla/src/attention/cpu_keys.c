/* cpu_keys.c - see keys.h. */
#include <math.h>

#include "attention/check.h"
#include "attention/keys.h"
#include "formats/cpu_tokens.h"

fm_key_reader fm_key_reader_of(const fm_queries *queries, bool quantizes) {
  const int32_t key_bytes = queries->d_qk * (int32_t)sizeof(uint16_t);
  return (fm_key_reader){.elements = fm_cpu_elements_for(fm_cpu_select(), queries->d_qk),
                         .key_bytes = key_bytes,
                         .room_bytes = quantizes ? (size_t)FM_CPU_MOST_KEYS * (size_t)key_bytes : 0};
}

void fm_attend_codes(const fm_pages *pages, fm_key_reader *reader, fm_attention *attention) {
  const double keys = (double)fm_descale_of(pages), queries = (double)fm_descale_of_queries(&attention->queries);
  const double finite = isfinite(keys) && isfinite(queries) ? 1 : (double)NAN;
  reader->sign = copysignf(1, (float)keys);
  fm_set_scale(attention->queries.softmax_scale * fabs(keys) * fabs(queries) * finite, &attention->queries);
  attention->output.value_scale = (float)(fabs(keys) * finite);
}

const void *fm_read_key(const fm_key_reader *reader, const fm_pages *pages, fm_token token, char *room,
                        int32_t number) {
  if (!fm_quantizes(pages->format)) return token.row;
  char *key = room + (int64_t)number * reader->key_bytes;
  const float descale = reader->sign != 0 ? reader->sign : fm_descale_of(pages);
  /* With an infinite scale all logits of a row may be -inf, which counts as attending nothing. NaN makes it NaN. */
  fm_dequantize_token(pages, token, isfinite(descale) ? descale : NAN, reader->elements, FM_BF16, key);
  return key;
}
