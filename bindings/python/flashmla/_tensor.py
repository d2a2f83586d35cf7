"""DLPack in: any tensor becomes the `DLTensor` that the C library reads, without a copy.

A capsule is looked into, not consumed: while it lives the tensor's memory does, and dropping it releases the export.
Source: https://dmlc.github.io/dlpack/latest/c_api.html (DLManagedTensor, DLManagedTensorVersioned).
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

from flashmla._cdef import ffi
from flashmla.errors import invalid

CPU: int = ffi.integer_const("kDLCPU")
CUDA: int = ffi.integer_const("kDLCUDA")

_DLTENSOR = ffi.typeof("DLTensor *")
_EXTENTS = ffi.typeof("int64_t[]")
_BYTES = ffi.typeof("uint8_t *")
_FLAGS = ffi.typeof("uint64_t *")

_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

# DLManagedTensorVersioned begins {version: 2 x uint32, manager_ctx, deleter, flags: uint64, DLTensor}, bytes:
_VERSIONED_FLAGS = 24
_VERSIONED_TENSOR = 32
_READ_ONLY = 1


class SupportsDLPack(Protocol):
    """Any tensor that can be exported through DLPack."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """The export itself."""

    def __dlpack_device__(self) -> Any:
        """(device type, device id)."""


class Tensor:
    """A `DLTensor *` (`c`) with what keeps it alive."""

    __slots__ = ("_owner", "c", "read_only")

    def __init__(self, c: Any, owner: Any, *, read_only: bool = False) -> None:
        self.c = c
        self.read_only = read_only
        self._owner = owner

    @property
    def device(self) -> tuple[int, int]:
        """(DLDeviceType, device id)."""
        return self.c.device.device_type, self.c.device.device_id

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        return tuple(self.c.shape[0 : self.c.ndim])


def from_capsule(capsule: Any, argument: str) -> Tensor:
    """The tensor in a DLPack capsule of either generation."""
    try:
        name = _name(capsule)
    except ValueError:  # no capsule at all
        name = None
    if name == b"dltensor_versioned":
        address = _pointer(capsule, name)
        flags = ffi.cast(_FLAGS, address + _VERSIONED_FLAGS)[0]
        return Tensor(ffi.cast(_DLTENSOR, address + _VERSIONED_TENSOR), capsule, read_only=bool(flags & _READ_ONLY))
    if name == b"dltensor":
        return Tensor(ffi.cast(_DLTENSOR, _pointer(capsule, name)), capsule)
    raise TypeError(f"{argument}.__dlpack__() returned {capsule!r}, which is no DLPack capsule")


def described(like: Tensor, shape: tuple[int, ...], dtype: tuple[int, int] | None = None) -> Tensor:
    """A compact tensor without memory, device as `like`. `dtype`: (DLDataTypeCode, bits), None: that of `like`."""
    extents = ffi.new(_EXTENTS, shape)
    c = ffi.new(_DLTENSOR)
    c.device = like.c.device
    c.ndim = len(shape)
    c.shape = extents
    c.dtype = like.c.dtype
    if dtype is not None:
        c.dtype.code, c.dtype.bits = dtype
    return Tensor(c, extents)


def memory(tensor: Tensor, argument: str, like: Tensor) -> tuple[Any, int]:
    """Address and byte count of a contiguous scratch buffer. What C cannot see in a raw pointer is checked here."""
    c = tensor.c
    if tensor.device != like.device:
        raise invalid(
            "FLASHMLA_ERROR_MIXED_DEVICES", f"{argument} is on DLPack device {tensor.device}, q is on {like.device}"
        )
    count = 1
    for axis in reversed(range(c.ndim)):
        extent = c.shape[axis]
        if extent > 1 and c.strides != ffi.NULL and c.strides[axis] != count:
            raise invalid(
                "FLASHMLA_ERROR_STRIDE",
                f"{argument} is not contiguous: stride {c.strides[axis]} of axis {axis} should be {count}",
            )
        count *= extent
    return ffi.cast(_BYTES, c.data) + c.byte_offset, count * c.dtype.bits * c.dtype.lanes // 8
