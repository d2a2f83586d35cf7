/* cpu_keys.c - see keys.h. */
#include "attention/keys.h"
#include "formats/cpu_tokens.h"

fm_key_reader fm_key_reader_of(const fm_queries *queries, bool quantizes) {
  const int32_t key_bytes = queries->d_qk * (int32_t)sizeof(uint16_t);
  return (fm_key_reader){.elements = fm_cpu_elements_for(fm_cpu_select(), queries->d_qk),
                         .key_bytes = key_bytes,
                         .room_bytes = quantizes ? (size_t)FM_CPU_MOST_KEYS * (size_t)key_bytes : 0};
}

const void *fm_read_key(const fm_key_reader *reader, const fm_pages *pages, fm_token token, char *room,
                        int32_t number) {
  if (!fm_quantizes(pages->format)) return token.row;
  char *key = room + (int64_t)number * reader->key_bytes;
  fm_dequantize_token(pages->format, token, reader->elements, FM_BF16, key);
  return key;
}
