/* operation.h - what an operation is: a descriptor with a table of its tensors and the few functions that are its own.
 * One generic path runs every operation, in this order; the first rule that is broken is reported:
 *   1. the params struct: NULL and struct_size, flags; read_form: scalars that decide the form of the tensors
 *   2. tensors present, ranks   3. dtypes   4. devices   5. extents: range, equal to earlier ones of the axis
 *   6. check_shapes: rules between extents, and what the library supports
 *   7. tensor by tensor: strides, overlap, address      8. num_threads; check_values: the same of lists, other scalars
 *   9. lay_out: tiling, a given plan, bytes of scratch  10. the scratch buffer
 * A size query leaves out 7, 8 and 10. An empty call ends here. Then
 *  11. bind: the addresses of this call                 12. the backend: prepare, launch; finish
 * Nothing is written before 12, and whatever can fail in it but the driver itself comes before the first launch. */
#ifndef FLASHMLA_CORE_OPERATION_H_
#define FLASHMLA_CORE_OPERATION_H_

#include "core/argument.h"
#include "core/section.h"
#include "core/params.h"

enum { FM_MAX_PARAMS_BYTES = 256 };

typedef struct fm_operation fm_operation;
typedef struct fm_facts fm_facts; /* observer/facts.h */

/* One call on its way. What an operation makes of it lies beside it, in a state of the operation's own. */
typedef struct fm_call {
  const fm_operation *operation;
  _Alignas(8) unsigned char params[FM_MAX_PARAMS_BYTES]; /* copy of the caller's, as long as this library knows them */
  fm_form form;
  fm_argument rows[FM_MAX_ARGUMENTS]; /* of the operation, in this form */
  fm_tensors tensors;
  int32_t extents[FM_MAX_AXES];
  bool cuda; /* false: host memory */
  int32_t device_id;
  bool empty;                      /* set by check_shapes: there is nothing to do, and no memory is looked at */
  bool again;                      /* run of a prepared call: all but addresses is known */
  bool sizes_only;                 /* a size query */
  fm_view views[FM_MAX_ARGUMENTS]; /* of the rows that are neither lists nor shapes only */
  uint64_t scratch_bytes;          /* set by lay_out */
  uint64_t tensor_bytes;           /* of the tensors but for caches, and dtype of the first; set for who looks on */
  const char *main_dtype;
  void *result; /* what the entry point is given beside params */
} fm_call;

typedef flashmla_status fm_hook(fm_call *call, void *state);

/* One side of an operation, GPU or CPU: fm_<operation>_cuda and fm_<operation>_cpu. */
typedef struct fm_backend {
  fm_hook *prepare; /* what stays the same when only addresses change; NULL: nothing */
  fm_hook *launch;  /* runs the call, whose addresses are bound; may be repeated. Sets the last kernel */
} fm_backend;

struct fm_operation {
  const char *name;
  fm_struct params;        /* the params struct */
  uint32_t flags;          /* known bits */
  uint32_t threads_offset; /* of the field num_threads; 0: there is none */
  uint32_t stream_offset;  /* of the field stream */
  const fm_argument *arguments;
  int32_t num_arguments;
  const fm_axis *axes;
  int32_t num_axes;
  const char *scratch; /* name of the params field, whose size is the field `scratch`_size; NULL: none */
  uint32_t scratch_offset, scratch_size_offset;
  uint32_t state_size;
  flashmla_status (*read_form)(const void *params, fm_form *form); /* NULL: there is one form */
  fm_hook *check_shapes, *check_values, *lay_out, *bind; /* check_values NULL: no rules; lay_out NULL: no scratch */
  fm_hook *finish;              /* after success, of empty calls too: fills call->result; NULL: there is none */
  void (*release)(void *state); /* frees what the state owns; NULL: nothing */
  flashmla_status (*adopt)(void *state); /* makes a copied state own what it names; NULL: the copy is as good */
  /* Tells who looks on what the tensors do not; NULL: there is nothing else. After success, of calls that are not
   * empty. */
  void (*describe)(const fm_call *call, const void *state, fm_facts *facts);
  const fm_backend *cuda, *cpu;
  const flashmla_kernel_info *cpu_kernels; /* rows of the kernel table */
  int32_t num_cpu_kernels;
};

/* Lists the operation: no other file names it. A call must have room for its params struct and its tables. */
#define FM_REGISTER(operation, params_type, arguments, axes)                                                    \
  _Static_assert(sizeof(params_type) <= FM_MAX_PARAMS_BYTES, "fm_call has room for the params");                \
  _Static_assert(sizeof(arguments) / sizeof(arguments)[0] <= FM_MAX_ARGUMENTS, "fm_call has room for rows");    \
  _Static_assert(sizeof(axes) / sizeof(axes)[0] <= FM_MAX_AXES, "fm_call has room for an extent of each axis"); \
  static const fm_operation *const operation##_entry FM_IN_SECTION("fm_operations") = &operation
/* All of them; `i` from 0, NULL behind the last. */
const fm_operation *fm_operation_at(int32_t i);

/* `state`: state_size bytes; what it owns is freed before the return. */
flashmla_status fm_query_size(const fm_operation *operation, const void *params, void *state, uint64_t *bytes);
flashmla_status fm_run(const fm_operation *operation, const void *params, void *state, void *result);

/* prepared.c */
flashmla_status fm_prepare(const fm_operation *operation, const void *params, flashmla_prepared **prepared);
flashmla_status fm_run_prepared(const fm_operation *operation, const flashmla_prepared *prepared, const void *params,
                                void *state, void *result);

/* Steps of fm_run, for prepared.c. */
flashmla_status fm_check_call(const fm_operation *operation, const void *params, bool sizes_only, fm_call *call,
                              void *state);
flashmla_status fm_check_scratch(const fm_call *call);
/* Whether the caller's scratch buffer has the bytes that lay_out asks for. */
bool fm_has_room(const fm_call *call);
flashmla_status fm_finish(fm_call *call, void *state);
/* Reads tensor_bytes and main_dtype of a checked call (observer/facts.c). */
void fm_measure_tensors(fm_call *call);
static inline const fm_backend *fm_backend_of(const fm_call *call) {
  return call->cuda ? call->operation->cuda : call->operation->cpu;
}

#endif /* FLASHMLA_CORE_OPERATION_H_ */
