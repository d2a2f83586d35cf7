/* fixture.h - a valid dense decode call and the plan call for it, in host memory, for tests to change field by field.
 */
#ifndef FIXTURE_H_
#define FIXTURE_H_

#include <flashmla/flashmla.h>

enum { Q, KV_CACHE, BLOCK_TABLE, CACHE_SEQLENS, OUT, LSE, CU_SEQLENS_Q, GLOBAL_SEQLENS, TENSORS };

typedef struct geometry {
  int64_t batch, s_q, h_q, h_kv, num_blocks, page_size, max_blocks;
  DLDataType dtype;
  int64_t d_qk; /* 0: 576 */
  int varlen;   /* with cu_seqlens_q; s_q is then max_seqlen_q */
  int64_t total_q;
} geometry;

typedef struct fixture {
  DLTensor tensor[TENSORS];
  int64_t shape[TENSORS][4];
  int64_t strides[TENSORS][4];
  size_t bytes[TENSORS]; /* of each tensor's memory */
  flashmla_dense_decode_params decode;
  flashmla_plan_decode_params plan_params;
  flashmla_plan plan;
} fixture;

#define BF16 ((DLDataType){kDLBfloat, 16, 1})
#define FP16 ((DLDataType){kDLFloat, 16, 1})
#define FP32 ((DLDataType){kDLFloat, 32, 1})
#define UINT8 ((DLDataType){kDLUInt, 8, 1})
/* Four requests of two tokens: every extent that may vary is greater than 1. */
#define SMALL ((geometry){4, 2, 6, 2, 5, 64, 3, .dtype = BF16})
/* The same with seven query tokens among the requests. */
#define SMALL_VARLEN ((geometry){4, 2, 6, 2, 5, 64, 3, .dtype = BF16, .varlen = 1, .total_q = 7})

/* Of the geometries: the largest power of two that is not above. */
int64_t fixture_d_v(int64_t d_qk);

/* Compact tensors, explicit strides, inputs zero, page i of the pool in every row of the table, lengths zero, outputs
 * filled with OUTPUT_FILL, workspace and plan buffer as big as the library asks for. global_seqlens is there, but not
 * given. The fixture must not move. */
void fixture_init(fixture *f, geometry g);
void fixture_free(fixture *f);
/* q and the cache, of float32, get values that differ. */
void fixture_fill(fixture *f);
/* Memory of the size the call needs now. */
void fixture_allocate_workspace(fixture *f);
void fixture_allocate_plan_buffer(fixture *f);
/* Says that every tensor is on this device; nothing moves. */
void fixture_set_device(fixture *f, int32_t device_type, int32_t device_id);
/* Makes f->plan and lets the decode call use it. */
void fixture_use_plan(fixture *f, int32_t num_splits);
/* No byte of out and lse was written. */
int fixture_outputs_untouched(const fixture *f);

enum { OUTPUT_FILL = 0xa5 };

#endif /* FIXTURE_H_ */
