/* argument.h - the tensors of an operation as a table: each row says what a tensor must be, and the checks of presence,
 * dtype, device, extents, strides, overlap and address follow from it. Tests read the same table. */
#ifndef FLASHMLA_CORE_ARGUMENT_H_
#define FLASHMLA_CORE_ARGUMENT_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/dtype.h"
#include "core/error.h"

enum { FM_MAX_RANK = 5, FM_MAX_ARGUMENTS = 14, FM_MAX_AXES = 20 };

/* Axes of an operation are numbered: first those that several operations have, then its own. An axis that an earlier
 * tensor has must be as long as there. */
enum {
  FM_BATCH,
  FM_S_Q,
  FM_TOTAL_Q,    /* the axis of all query tokens, in the form of variable-length queries */
  FM_NUM_STATES, /* the axis that a tensor in the place of a list has in front */
  FM_H_Q,
  FM_ONE, /* the axis of a scalar, whose extent is 1 */
  FM_OWN_AXES
};
typedef struct fm_axis {
  const char *name;
  bool may_be_empty;
} fm_axis;
#define FM_SHARED_AXES                                                                      \
  [FM_BATCH] = {"batch", true}, [FM_S_Q] = {"s_q", true}, [FM_TOTAL_Q] = {"total_q", true}, \
  [FM_NUM_STATES] = {"num_states", false}, [FM_H_Q] = {"h_q", false}, [FM_ONE] = {"1", false}

typedef struct fm_argument {
  const char *name;
  const char *packed_by; /* NULL, or the field of params that makes it `packed` */
  uint16_t offset;       /* in the params struct, of a const DLTensor *; of a const DLTensor *const * where `listed` */
  uint8_t rank;
  uint8_t axes[FM_MAX_RANK];
  uint8_t dtypes;      /* set of fm_dtype that it may have */
  uint8_t like;        /* 0, or FM_LIKE(row): or the dtype of that row's tensor */
  uint8_t alignment;   /* bytes, a power of two: of the address and of every stride but the innermost; no less than an
                          element */
  bool free_innermost; /* false: the innermost stride must be 1 */
  bool written;        /* must not overlap itself; what is only read may, and have strides of 0 */
  bool mapped;         /* on CUDA it is read through a tensor map, which has no strides of 0 */
  bool optional;       /* NULL: not given, no rule applies */
  bool of_queries; /* in the form of variable-length queries: without the batch axis, with total_q in place of s_q */
  bool offsets;    /* of the query tokens: given, it makes the form of variable-length queries */
  bool listed;     /* a list of tensors alike, or one tensor of them all with an axis in front */
  bool shape_only; /* its memory is not looked at */
  bool coded;      /* it may be codes too, in the form of codes, and results like it are bfloat16 then */
  uint8_t paged;   /* a KV cache, by a bit of its own: it is `packed` in the form of one that quantises */
  uint8_t packed_axis; /* its innermost axis then; 0: the same */
  bool packed;         /* its elements are bytes, and those of a page contiguous: `alignment` is of pages */
  uint8_t parted_axis; /* its innermost axis in the form of queries in two parts; 0: the same */
} fm_argument;
_Static_assert(FM_DTYPES <= 8, "fm_argument.dtypes has a bit for each");
#define FM_LIKE(row) ((row) + 1)
/* Name and offset of a tensor. */
#define FM_FIELD(type, field) .name = #field, .offset = offsetof(type, field)

/* Tensors with this alignment are read and written by vectors. */
enum { FM_VECTOR_BYTES = 16 };

/* The tensors of one call. */
typedef struct fm_tensors {
  const fm_argument *rows; /* the table, in the form of the call */
  int32_t count;
  const fm_axis *axes;
  int32_t listed;                      /* tensors of each list; 0: one tensor is in its place */
  const void *given[FM_MAX_ARGUMENTS]; /* a const DLTensor *, or a list of them; NULL: not given */
} fm_tensors;

/* What the form of a call is: it decides the rank of its tensors. */
typedef struct fm_form {
  bool varlen;    /* variable-length queries */
  int32_t listed; /* fm_tensors.listed */
  uint8_t packed; /* the KV caches that are of a format that quantises: bits of fm_argument.paged */
  bool coded;     /* the main cache is codes with one scale: queries may be such codes, too */
  bool parted;    /* queries come in two parts, of which q is the first */
} fm_form;

/* The table of an operation in the form of a call. */
void fm_arguments_in(fm_form form, const fm_argument *table, int32_t count, fm_argument rows[FM_MAX_ARGUMENTS]);
/* Reads the tensors of a params struct. */
static inline void fm_read_tensors(const void *params, fm_tensors *tensors) {
  for (int32_t row = 0; row < tensors->count; ++row)
    memcpy(&tensors->given[row], (const char *)params + tensors->rows[row].offset, sizeof tensors->given[row]);
}
/* Tensor number `element` of a list that is given, and of any other row the tensor 0; NULL: not given. */
static inline const DLTensor *fm_tensor_at(const fm_tensors *tensors, int32_t row, int32_t element) {
  const void *given = tensors->given[row];
  return tensors->rows[row].listed ? ((const DLTensor *const *)given)[element] : given;
}
/* How many tensors a row has. */
static inline int32_t fm_tensors_of(const fm_tensors *tensors, int32_t row) {
  return tensors->rows[row].listed && tensors->listed > 0 ? tensors->listed : 1;
}
/* "q", "outs[3]". */
fm_text fm_tensor_name(const fm_tensors *tensors, int32_t row, int32_t element);
/* "(batch, s_q, h_q, d_qk)" */
fm_text fm_describe_axes(const fm_axis *axes, const fm_argument *row);
/* "cuda:1" */
fm_text fm_describe_device(bool cuda, int32_t id);

/* Every list is given: then fm_tensor_at may look into it. */
flashmla_status fm_check_lists(const fm_tensors *tensors);
/* Each stops at the first tensor that breaks the rule. */
flashmla_status fm_check_presence(const fm_tensors *tensors);
flashmla_status fm_check_dtypes(const fm_tensors *tensors);
flashmla_status fm_check_devices(const fm_tensors *tensors);
/* `extents`: by axis; 0 where no tensor has it. */
flashmla_status fm_check_extents(const fm_tensors *tensors, int32_t extents[FM_MAX_AXES]);

/* What any address of a tensor like a checked one has to hold. */
typedef struct fm_reach {
  uint64_t span;      /* bytes, from the first element to behind the last */
  uint32_t alignment; /* of the first, bytes */
} fm_reach;

/* Where a checked tensor lies: byte_offset applied; strides in elements, that of an extent of 1 set to the innermost
 * extent, so that it is as aligned as the others and may be handed to a tensor map. All zero without elements or when
 * not given. */
typedef struct fm_view {
  void *data;
  int64_t stride[FM_MAX_RANK];
  fm_reach reach;
} fm_view;

/* view.c: strides, overlap and address of one tensor that passed the checks above. `empty`: the call has no elements,
 * data may be NULL. */
flashmla_status fm_view_tensor(const fm_tensors *tensors, int32_t row, int32_t element, bool empty, fm_view *view);
/* The address alone, of a tensor in a call that is not empty; `reach`: of the view that it had before. */
flashmla_status fm_view_address(const fm_tensors *tensors, int32_t row, int32_t element, fm_reach reach,
                                void **address);
/* Strides of a view from the batch axis on: 0 for that axis where it was dropped. */
void fm_strides_from_batch(const int64_t *stride, bool dropped, int64_t from_batch[3]);

#endif /* FLASHMLA_CORE_ARGUMENT_H_ */
