"""DLPack in: any tensor becomes the `DLTensor` that the C library reads, without a copy.

A capsule is looked into, not consumed: while it lives the tensor's memory does, and dropping it releases the export.
Source: https://dmlc.github.io/dlpack/latest/c_api.html (DLManagedTensor, DLManagedTensorVersioned).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

from flashmla._cdef import ffi
from flashmla.errors import invalid

CPU: int = ffi.integer_const("kDLCPU")
CUDA: int = ffi.integer_const("kDLCUDA")

DTYPES: dict[str, tuple[int, int]] = {
    "bfloat16": (ffi.integer_const("kDLBfloat"), 16),
    "float16": (ffi.integer_const("kDLFloat"), 16),
    "float32": (ffi.integer_const("kDLFloat"), 32),
}
"""(DLDataTypeCode, bits) of the dtypes of results."""

MADE = DTYPES | {
    "uint8": (ffi.integer_const("kDLUInt"), 8),
    "int32": (ffi.integer_const("kDLInt"), 32),
    "int64": (ffi.integer_const("kDLInt"), 64),
}
"""Of the dtypes that tensors are made with."""

_DLTENSOR = ffi.typeof("DLTensor *")
_EXTENTS = ffi.typeof("int64_t[]")
_BYTES = ffi.typeof("uint8_t *")
_FLAGS = ffi.typeof("uint64_t *")
_NUMBER = ffi.typeof("uintptr_t")

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
    """Any tensor that can be exported through DLPack. JAX does not tell type checkers of `__dlpack_device__`."""

    @property
    def __dlpack__(self) -> Callable[..., Any]:
        """The export itself."""


class DType(Protocol):
    """An element type of a framework: torch.float32, numpy.dtype("float32")."""

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""


OutDType = Literal["bfloat16", "float16", "float32"] | DType | type[Any] | None
"""What `out_dtype` may be: a name, a dtype of a framework, a scalar type as numpy.float32 and jax.numpy.bfloat16."""


def dtype_name(dtype: Any) -> Any:
    """What a framework's dtype is called, such as "float32"; something else for what is no dtype."""
    if isinstance(dtype, str):
        return dtype
    if type(dtype).__module__ == "torch":
        return str(dtype).removeprefix("torch.")
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None)  # numpy.dtype("float32"); numpy.float32
    return name if isinstance(name, str) else None


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
    found = tensor.device
    return found.device_type, found.device_id


def shape(tensor: Any) -> tuple[int, ...]:
    """Extents of a `DLTensor *`."""
    return tuple(ffi.unpack(tensor.shape, tensor.ndim)) if tensor.ndim else ()


def compact(extents: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a compact row-major tensor."""
    strides, step = [], 1
    for extent in reversed(extents):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


@functools.lru_cache(maxsize=1024)
def _model(extents: tuple[int, ...], dtype: tuple[int, int], on: tuple[int, int]) -> tuple[Any, Any]:
    """A compact tensor without memory, never changed, and its extents, which must live as long as its copies."""
    owner = ffi.new(_EXTENTS, extents)
    return ffi.new(_DLTENSOR, (ffi.NULL, on, len(extents), (*dtype, 1), owner)), owner


def described(extents: tuple[int, ...], dtype: tuple[int, int], on: tuple[int, int]) -> tuple[Any, Any]:
    """A compact tensor without memory, and what must live as long as it does.

    `dtype`: (DLDataTypeCode, bits); `on`: (DLDeviceType, device id).
    """
    model, owner = _model(extents, dtype, on)
    return ffi.new(_DLTENSOR, model[0]), owner


def difference(tensor: Any, other: Any) -> tuple[str, str] | None:
    """What keeps one `DLTensor *` from the place of another: the status that fits, and the words. None: nothing."""
    for status, name, of in (
        ("FLASHMLA_ERROR_MIXED_DEVICES", "device", device),
        ("FLASHMLA_ERROR_DTYPE", "dtype", _dtype),
        ("FLASHMLA_ERROR_SHAPE", "shape", shape),
        ("FLASHMLA_ERROR_STRIDE", "strides", _strides),
    ):
        found, was = of(tensor), of(other)
        if found != was:
            axes = range(len(was)) if of in {shape, _strides} and len(found) == len(was) else ()
            differing = next((axis for axis in axes if found[axis] != was[axis]), None)
            if differing is None:
                return status, f"{name} is {found}, was {was}"
            return status, f"{name}[{differing}] is {found[differing]}, was {was[differing]}"
    return None


_KINDS = ffi.typeof("DLDataTypeCode").elements  # by code: "kDLBfloat"


def _dtype(tensor: Any) -> str:
    """What a `DLTensor *` has for elements: "bfloat16", "float8_e4m3fn"."""
    code, bits, lanes = tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes
    kind = str(_KINDS.get(code, f"code {code}, {bits} bits")).removeprefix("kDL").lower()
    of_any_width = kind in {"int", "uint", "float", "bfloat", "complex"}
    return kind + (str(bits) if of_any_width else "") + (f"x{lanes}" if lanes != 1 else "")


def _strides(tensor: Any) -> tuple[int, ...]:
    """Strides of a `DLTensor *`; 0 where they do not matter."""
    extents = shape(tensor)
    strides = ffi.unpack(tensor.strides, tensor.ndim) if tensor.strides else compact(extents)
    return tuple(stride if extent > 1 else 0 for extent, stride in zip(extents, strides, strict=True))


def memory(tensor: Any, argument: str) -> tuple[Any, int]:
    """Address and byte count of a contiguous scratch buffer. What C cannot see in a raw pointer is checked here."""
    count, extents, strides, dtype = 1, tensor.shape, tensor.strides, tensor.dtype
    for axis in reversed(range(tensor.ndim)):
        extent = extents[axis]
        if extent > 1 and strides and strides[axis] != count:
            raise invalid(
                "FLASHMLA_ERROR_STRIDE",
                f"{argument} is not contiguous: stride {strides[axis]} of axis {axis} should be {count}",
            )
        count *= extent
    address = int(ffi.cast(_NUMBER, tensor.data)) + tensor.byte_offset
    if address >= 2**64:
        raise invalid(
            "FLASHMLA_ERROR_OVERFLOW",
            f"{argument} starts {tensor.byte_offset} bytes behind its data, which is beyond address 2^64",
        )
    return ffi.cast(_BYTES, address), count * dtype.bits * dtype.lanes // 8
