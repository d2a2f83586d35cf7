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

DTYPES: dict[str, tuple[int, int]] = {
    "bfloat16": (ffi.integer_const("kDLBfloat"), 16),
    "float16": (ffi.integer_const("kDLFloat"), 16),
    "float32": (ffi.integer_const("kDLFloat"), 32),
}
"""(DLDataTypeCode, bits) of the dtypes that outputs are made with."""

_DLTENSOR = ffi.typeof("DLTensor *")
_EXTENTS = ffi.typeof("int64_t[]")
_BYTES = ffi.typeof("uint8_t *")
_FLAGS = ffi.typeof("uint64_t *")

_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

_VERSIONED = b"dltensor_versioned"
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


def pointer(capsule: Any, argument: str) -> Any:
    """The `DLTensor *` in a DLPack capsule of either generation; it is good while the capsule lives."""
    try:
        name = _name(capsule)
    except ValueError:  # no capsule at all
        name = None
    if name == _VERSIONED:
        return ffi.cast(_DLTENSOR, _pointer(capsule, name) + _VERSIONED_TENSOR)
    if name == b"dltensor":
        return ffi.cast(_DLTENSOR, _pointer(capsule, name))
    raise TypeError(f"{argument}.__dlpack__() returned {capsule!r}, which is no DLPack capsule")


def read_only(capsule: Any) -> bool:
    """Whether the exporter forbids writing; older capsules cannot tell."""
    if _name(capsule) != _VERSIONED:
        return False
    return bool(ffi.cast(_FLAGS, _pointer(capsule, _VERSIONED) + _VERSIONED_FLAGS)[0] & _READ_ONLY)


def device(tensor: Any) -> tuple[int, int]:
    """(DLDeviceType, device id) of a `DLTensor *`."""
    return tensor.device.device_type, tensor.device.device_id


def shape(tensor: Any) -> tuple[int, ...]:
    """Extents of a `DLTensor *`."""
    return tuple(ffi.unpack(tensor.shape, tensor.ndim)) if tensor.ndim else ()


def described(like: Any, extents: tuple[int, ...], dtype: tuple[int, int] | None = None) -> tuple[Any, Any]:
    """A compact tensor without memory, device as `like`, and what must live as long as it does.

    `dtype`: (DLDataTypeCode, bits); None: that of `like`.
    """
    owner = ffi.new(_EXTENTS, extents)
    made = ffi.new(_DLTENSOR)
    made.device = like.device
    made.ndim = len(extents)
    made.shape = owner
    made.dtype = like.dtype
    if dtype is not None:
        kind = made.dtype
        kind.code, kind.bits = dtype
    return made, owner


def memory(tensor: Any, argument: str, like: Any, like_argument: str) -> tuple[Any, int]:
    """Address and byte count of a contiguous scratch buffer. What C cannot see in a raw pointer is checked here."""
    place, model = tensor.device, like.device
    if place.device_type != model.device_type or place.device_id != model.device_id:
        raise invalid(
            "FLASHMLA_ERROR_MIXED_DEVICES",
            f"{argument} is on DLPack device {device(tensor)}, {like_argument} is on {device(like)}",
        )
    count, extents, strides, dtype = 1, tensor.shape, tensor.strides, tensor.dtype
    for axis in reversed(range(tensor.ndim)):
        extent = extents[axis]
        if extent > 1 and strides and strides[axis] != count:
            raise invalid(
                "FLASHMLA_ERROR_STRIDE",
                f"{argument} is not contiguous: stride {strides[axis]} of axis {axis} should be {count}",
            )
        count *= extent
    return ffi.cast(_BYTES, tensor.data) + tensor.byte_offset, count * dtype.bits * dtype.lanes // 8
