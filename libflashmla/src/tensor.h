/* tensor.h - the checks that any tensor argument of any operation passes. An operation describes its arguments in a
 * table of fm_argument rows, parallel to its array of DLTensor pointers; the rules that tie extents together follow
 * from it. */
#ifndef FLASHMLA_TENSOR_H_
#define FLASHMLA_TENSOR_H_

#include "internal.h"

enum { FM_MAX_RANK = 5 };

/* Named extents. An axis with a name that an earlier axis has must be as long as that one. */
typedef enum fm_extent {
  FM_BATCH,
  FM_S_Q,
  FM_H_Q,
  FM_D_QK,
  FM_NUM_BLOCKS,
  FM_PAGE_SIZE,
  FM_H_KV,
  FM_MAX_BLOCKS,
  FM_D_V,
  FM_TOTAL_Q,
  FM_OFFSETS,
  FM_NUM_STATES,
  FM_EXTENTS
} fm_extent;

typedef enum fm_element {
  FM_AS_FIRST, /* the dtype of the first argument */
  FM_AS_FIRST_OR_FLOAT32,
  FM_ANY_FLOAT, /* bfloat16, float16 or float32 */
  FM_FLOAT32,
  FM_INT32
} fm_element;

typedef struct fm_argument {
  const char *name;
  int32_t rank;
  fm_extent axes[FM_MAX_RANK];
  fm_element element;
  uint32_t alignment;  /* bytes, of the address and of every stride but the innermost */
  bool free_innermost; /* false: the innermost stride must be 1 */
  bool written;        /* must not overlap itself */
  bool optional;       /* NULL: not given, no rule applies */
} fm_argument;

/* The lse that an operation writes. */
#define FM_LSE_OUTPUT                  \
  {.name = "lse",                      \
   .rank = 3,                          \
   .axes = {FM_BATCH, FM_H_Q, FM_S_Q}, \
   .element = FM_FLOAT32,              \
   .alignment = 4,                     \
   .free_innermost = true,             \
   .written = true,                    \
   .optional = true}

/* Where a checked tensor lies: byte_offset applied; strides in elements, that of an extent of 1 set to the innermost
 * extent, so that it is as aligned as the others and may be handed to a tensor map. All zero without elements. */
typedef struct fm_view {
  void *data;
  int64_t stride[FM_MAX_RANK];
} fm_view;

/* The row in the form of variable-length queries: without the batch axis, with total_q in place of s_q. */
fm_argument fm_drop_batch(fm_argument argument);
/* Strides of a view from the batch axis on: 0 for that axis where it was dropped. */
void fm_strides_from_batch(const int64_t *stride, bool dropped, int64_t from_batch[3]);

/* Each takes the table, the tensors and their number, and stops at the first argument that breaks the rule. */
flashmla_status fm_check_presence(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count);
flashmla_status fm_check_dtypes(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count);
flashmla_status fm_check_devices(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count);
flashmla_status fm_check_extents(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count,
                                 int32_t extents[FM_EXTENTS]);

/* The dtype of a tensor of floats that passed. */
fm_dtype fm_float_of(const DLTensor *tensor);

/* Strides and address of one argument that passed the checks above. `empty`: the call has no elements, data may be
 * NULL. */
flashmla_status fm_view_tensor(const fm_argument *argument, const DLTensor *tensor, bool empty, fm_view *view);

#endif /* FLASHMLA_TENSOR_H_ */
