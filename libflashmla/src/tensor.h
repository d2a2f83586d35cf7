/* tensor.h - the checks that any tensor argument of any operation passes. An operation describes its arguments in a
 * table of fm_argument rows, parallel to its array of DLTensor pointers; the rules that tie extents together follow
 * from it. */
#ifndef FLASHMLA_TENSOR_H_
#define FLASHMLA_TENSOR_H_

#include "internal.h"

enum { FM_MAX_RANK = 4 };

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
  FM_EXTENTS
} fm_extent;

typedef enum fm_element {
  FM_AS_FIRST,
  FM_INT32,
  FM_FLOAT32
} fm_element; /* FM_AS_FIRST: the dtype of the first argument */

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

/* Where a checked tensor lies: byte_offset applied; strides in elements, that of an extent of 1 set to the innermost
 * extent, so that it is as aligned as the others and may be handed to a tensor map. All zero without elements. */
typedef struct fm_view {
  void *data;
  int64_t stride[FM_MAX_RANK];
} fm_view;

/* Each takes the table, the tensors and their number, and stops at the first argument that breaks the rule. */
flashmla_status fm_check_presence(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count);
flashmla_status fm_check_dtypes(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count,
                                fm_dtype *first);
flashmla_status fm_check_devices(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count);
flashmla_status fm_check_extents(const fm_argument *arguments, const DLTensor *const *tensors, int32_t count,
                                 int32_t extents[FM_EXTENTS]);

/* Strides and address of one argument that passed the checks above. `empty`: the call has no elements, data may be
 * NULL. */
flashmla_status fm_view_tensor(const fm_argument *argument, const DLTensor *tensor, bool empty, fm_view *view);

#endif /* FLASHMLA_TENSOR_H_ */
