"""A framework made for tests, whose tensors offer DLPack's exchange table: host memory of NumPy arrays."""

from __future__ import annotations

import ctypes

import numpy as np

from flashmla import _framework


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    pass


Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(Managed))
Managed._fields_ = (
    ("major", ctypes.c_uint32),
    ("minor", ctypes.c_uint32),
    ("context", ctypes.c_void_p),
    ("deleter", Deleter),
    ("flags", ctypes.c_uint64),
    ("tensor", DLTensor),
)
Allocate = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.POINTER(DLTensor),
    ctypes.POINTER(ctypes.POINTER(Managed)),
    ctypes.c_void_p,
    ctypes.c_void_p,
)
Import = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Managed), ctypes.POINTER(ctypes.c_void_p))
Export = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(DLTensor))
Stream = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p))


class Table(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("older", ctypes.c_void_p),
        ("allocate", Allocate),
        ("export_managed", ctypes.c_void_p),
        ("import_managed", Import),
        ("export_tensor", Export),
        ("current_stream", Stream),
    )


class Tensor:
    """A tensor of the framework: what the table tells of it is what it holds at that moment."""

    def __init__(self, array, device=(1, 0), byte_offset=0):
        self.device = device
        self.byte_offset = byte_offset
        self.array = array

    @property
    def shape(self):
        return self.array.shape

    @property
    def nbytes(self):
        return self.array.nbytes

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **_):
        return self.array.__dlpack__(max_version=(1, 0))


class Framework(_framework.Framework):
    """The binding's side of it."""

    def conditions(self):
        return (_framework.Condition(Tensor, of_tensors=True, attribute="__class__"),)

    def empty(self, like, argument, shape, dtype, stream):
        del argument, stream
        return Tensor(np.empty(shape, dtype or like.array.dtype))

    def address(self, tensor):
        return tensor.array.ctypes.data


class Exchange:
    """The table, and what was asked of it. `before_allocation` runs inside the allocator."""

    def __init__(self):
        self.calls = []
        self.alive = {}  # scratch that was allocated and not deleted yet, by address of its Managed
        self.fails = False
        self.tells_strides = True
        self.before_allocation = lambda: None
        functions = (Allocate(self.allocate), None, Import(self.import_), Export(self.export), Stream(self.stream))
        self.table = Table(1, 3, None, *functions)
        self.deleter = Deleter(self.delete)

    def capsule(self, table=None):
        new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
            ("PyCapsule_New", ctypes.pythonapi)
        )
        self.name = b"dlpack_exchange_api"
        return new(ctypes.addressof(table or self.table), self.name, None)

    def export(self, tensor, out):
        array = tensor.array
        count = array.ndim
        tensor.extents = (ctypes.c_int64 * count)(*array.shape)
        tensor.steps = (ctypes.c_int64 * count)(*(step // array.itemsize for step in array.strides))
        pointer = ctypes.POINTER(ctypes.c_int64)
        code = {"f": 2, "i": 0, "u": 1}[array.dtype.kind]
        out[0] = DLTensor(
            *(array.ctypes.data, *tensor.device, count, code, 8 * array.itemsize, 1),
            *(ctypes.cast(tensor.extents, pointer), ctypes.cast(tensor.steps, pointer), tensor.byte_offset),
        )
        if not self.tells_strides:
            out[0].strides = None
        return 0

    def allocate(self, prototype, out, _context, _on_error):
        self.before_allocation()
        if self.fails:
            return -1
        assert (prototype[0].code, prototype[0].bits, prototype[0].ndim) == (1, 8, 1)
        memory = np.empty(prototype[0].shape[0] + 64, np.uint8)
        managed = Managed(1, 3, None, self.deleter, 0, DLTensor(memory.ctypes.data + -memory.ctypes.data % 64))
        self.alive[ctypes.addressof(managed)] = managed, memory
        out[0] = ctypes.pointer(managed)
        self.calls.append("allocate")
        return 0

    def delete(self, managed):
        self.calls.append("delete")
        del self.alive[ctypes.addressof(managed[0])]

    def import_(self, managed, out):
        """The tensor keeps the memory."""
        _, memory = self.alive.pop(ctypes.addressof(managed[0]))
        tensor = Tensor(memory)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(tensor))
        out[0] = id(tensor)
        self.calls.append("import")
        return 0

    def stream(self, device_type, device_id, out):
        self.calls.append(("stream", device_type, device_id))
        out[0] = 0
        return 0
