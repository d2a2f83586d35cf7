/* exchange.h - calls on tensor objects, for bindings; rules that hold for every function: flashmla.h.
 *
 * For bindings of a language whose frameworks speak DLPack (in Python a PyObject *): through the exchange table of the
 * tensors' type (DLPack 1.3, the capsule `__dlpack_c_exchange_api__`), or on capsules of tensors that were exported one
 * by one. Other callers describe tensors as DLTensor and need none of this.
 */
#ifndef FLASHMLA_EXCHANGE_H_
#define FLASHMLA_EXCHANGE_H_

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Calls on tensor objects, for bindings ---- */

/* What such a call needs of the language's runtime; behind each, the function of Python's C API. */
typedef struct flashmla_host {
  uint64_t struct_size;                         /* sizeof(flashmla_host) */
  void *(*address)(void *object);               /* an integer object as an address: PyLong_AsVoidPtr */
  void *(*integer)(int64_t value);              /* a new integer object: PyLong_FromLongLong */
  void *(*capsule)(void *object, const char *); /* what a capsule of that name holds: PyCapsule_GetPointer */
  void *(*type)(void *object);                  /* new reference: PyObject_Type */
  void *(*attribute)(void *object, void *name); /* new reference, NULL: an exception is set: PyObject_GetAttr */
  /* likewise, what a function returns for `count` arguments: PyObject_Vectorcall */
  void *(*call)(void *function, void *const *arguments, size_t count, void *null);
  void (*release)(void *object); /* of a reference: Py_DecRef */
  void *(*unlock)(void);         /* lets other threads run: PyEval_SaveThread */
  void (*lock)(void *state);     /* with what unlock returned: PyEval_RestoreThread */
  void *nothing;                 /* the object that stands for a missing argument: Py_None */
} flashmla_host;

/* What an argument of an exchange call is, and which field of the params struct it fills. */
typedef enum flashmla_exchange_kind {
  FLASHMLA_EXCHANGE_TENSOR = 0,  /* a tensor or nothing: a const DLTensor * */
  FLASHMLA_EXCHANGE_LIST = 1,    /* `count` arguments, each a tensor: a const DLTensor *const * */
  FLASHMLA_EXCHANGE_SCRATCH = 2, /* a contiguous tensor or nothing: a void *, and its bytes in the uint64_t behind it */
  FLASHMLA_EXCHANGE_ADDRESS = 3, /* an integer object or nothing: a pointer */
  FLASHMLA_EXCHANGE_RESULT = 4,  /* an integer object: no field, the second argument of run_into */
  FLASHMLA_EXCHANGE_OUTPUT = 5   /* as FLASHMLA_EXCHANGE_TENSOR, and written */
} flashmla_exchange_kind;

typedef struct flashmla_exchange_argument {
  int32_t kind;    /* a flashmla_exchange_kind */
  uint32_t offset; /* of the field in the params struct */
  int32_t count;   /* of a list */
} flashmla_exchange_argument;

/* What must hold for a call, beside what the table tells: an attribute, or what a function returns. */
typedef struct flashmla_exchange_condition {
  int32_t of_tensors; /* 1: for every tensor whose elements are no integers; 0: once a call */
  void *function;     /* called with the tensor, or with nothing; */
  void *attribute;    /* NULL: the attribute with this name object is looked at, ... */
  void *object;       /* ... of the tensor, or of this object */
  const void *value;  /* the object that must be found, or the call is UNUSUAL */
  void *unless;       /* NULL, or a function called once a call with nothing: where it returns `value`, this holds */
} flashmla_exchange_condition;

/* The call of one operation with given scalars on tensors of one type. It is read only, so any number of threads may
 * share one. Exactly one of the functions run* is set. Where params holds a tensor already, one that is passed for it
 * must have its shape, strides, dtype and device, or it is UNUSUAL. The description is trusted: offsets are those of
 * the operation's params struct, pointers are what they are said to be. */
typedef struct flashmla_exchange {
  uint64_t struct_size; /* sizeof(flashmla_exchange); with another one than the library's, all is UNUSUAL */
  const void *table;    /* the type's DLPackExchangeAPI, with a dltensor_from_py_object_no_sync; */
                        /* NULL: tensors are capsules named "dltensor_versioned" */
  const void *type;     /* with a table: the type object; another type's objects are UNUSUAL */
  const flashmla_exchange_condition *conditions; /* at most 32, looked at only with a table */
  const void *params;                          /* the params struct but for the fields that arguments fill, which are */
  uint32_t params_size;                        /* zero, or what holds where nothing is passed */
  int32_t num_objects;                         /* objects of a call, lists counted by their tensors */
  const flashmla_exchange_argument *arguments; /* in the order of the objects */
  int32_t num_arguments;
  int32_t num_conditions;
  uint32_t stream_offset;  /* with a table: of the field that gets its current stream of the first tensor's device */
  uint32_t scratch_offset; /* of the field of scratch that is made where none is passed, by the table's allocator */
  int32_t keep_scratch;    /* 1: such scratch is what the call returns, as an object; 0: it is released */
  const DLTensor *model;   /* NULL: the first tensor passed; else what stands in its place */
  flashmla_status (*size)(const void *params, uint64_t *bytes); /* of scratch; NULL: none is ever made */
  flashmla_status (*run)(const void *params);
  flashmla_status (*run_into)(const void *params, void *result);
  flashmla_status (*run_prepared)(const void *prepared, const void *params);
  flashmla_status (*run_prepared_into)(const void *prepared, const void *params, void *result);
  const void *prepared; /* the flashmla_prepared of run_prepared */
} flashmla_exchange;

typedef enum flashmla_exchange_status {
  /* What a call returns where something is not as it wants it, and nothing was done. The caller then takes the long
   * way, which says what is wrong. */
  FLASHMLA_EXCHANGE_UNUSUAL = -1
} flashmla_exchange_status;

/* Sets the runtime's functions, before the first call of any thread, and not again with others; they are copied.
 * Returns FLASHMLA_OK, or FLASHMLA_ERROR_STRUCT_SIZE: the library was made for others, and no call may be made. */
FLASHMLA_API FLASHMLA_CHECK flashmla_status flashmla_exchange_host(const flashmla_host *functions);

/* Makes a call. `self` is an integer object with the address of a flashmla_exchange. Returns a new reference: an
 * integer object (a flashmla_status, FLASHMLA_EXCHANGE_UNUSUAL, or without a table FLASHMLA_EXCHANGE_UNUSUAL - n where
 * n bytes of scratch are needed and none was passed) or the scratch that was made and kept; NULL with an exception set
 * where the framework raised one. To be called with the runtime's lock, which is released while the operation runs. Has
 * the form of a Python function with METH_FASTCALL. */
FLASHMLA_API void *flashmla_exchange_call(void *self, void *const *objects, intptr_t count);

#ifdef __cplusplus
}
#endif

#endif /* FLASHMLA_EXCHANGE_H_ */
