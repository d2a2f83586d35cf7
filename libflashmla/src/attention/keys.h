/* keys.h - keys that are rows of the pages of a KV cache, in any of the formats. Which rows they are, the operation
 * says.
 */
#ifndef FLASHMLA_ATTENTION_KEYS_H_
#define FLASHMLA_ATTENTION_KEYS_H_

#include "attention/attention.h"
#include "cpu/isa.h"
#include "formats/pages.h"

/* In check_shapes: the cache in row `cache` of the table has rows that fit the queries, those of row `q`. */
flashmla_status fm_check_keys(const fm_call *call, int32_t q, int32_t cache, const fm_queries *queries,
                              const fm_pages *pages);

/* cpu_keys.c: on the CPU. What is quantised becomes bfloat16 in memory of the thread, which is as large as room_bytes
 * of a source of keys says. */
typedef struct fm_key_reader {
  const fm_cpu_elements *elements;
  int32_t key_bytes; /* in that memory */
  size_t room_bytes; /* of it; 0: no cache of the call is quantised */
  float sign;        /* of keys that are codes: see fm_attend_codes; 0: scales apply to keys */
} fm_key_reader;
fm_key_reader fm_key_reader_of(const fm_queries *queries, bool quantizes);
/* Where one scale is that of all keys: bfloat16 holds their codes exactly, so these are attended, with the sign of the
 * scale. Its size, and that of the scale of queries that are codes, goes to the softmax scale and to the rows of
 * results. One that is not finite makes rows NaN. */
void fm_attend_codes(const fm_pages *pages, fm_key_reader *reader, fm_attention *attention);
/* The key of a token; `room`: where key number 0 of the memory is, `number`: of this one. The thread must not flush
 * subnormal numbers where the cache is quantised. */
const void *fm_read_key(const fm_key_reader *reader, const fm_pages *pages, fm_token token, char *room, int32_t number);

#endif /* FLASHMLA_ATTENTION_KEYS_H_ */
