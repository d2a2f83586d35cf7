/* describe.h - what attention operations tell the profiler: their schedule, and the KV items that they read. */
#ifndef FLASHMLA_ATTENTION_DESCRIBE_H_
#define FLASHMLA_ATTENTION_DESCRIBE_H_

#include "attention/attention.h"
#include "observer/facts.h"

/* Shape and schedule of the call. */
void fm_describe_attention(const fm_attention *attention, fm_facts *facts);
/* Items of rows that take `row_bytes` for all KV heads, each attended by all query heads. With variable-length queries
 * each request counts as many query tokens as the mean. */
fm_items_read fm_attended_items(const fm_attention *attention, const int32_t *lengths, int64_t capacity,
                                int64_t row_bytes);

#endif /* FLASHMLA_ATTENTION_DESCRIBE_H_ */
