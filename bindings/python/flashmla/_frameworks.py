"""The frameworks whose tensors are known, by the type of a tensor. Streams that are given.

Nothing here imports a framework: whoever passes a tensor of one has imported it.
"""

from __future__ import annotations

import sys
from typing import Any

from flashmla import _tensor
from flashmla._cdef import ffi
from flashmla._framework import DLPACK_VERSION, Framework, RefusedTypeError
from flashmla._jax import JAX, Tracer
from flashmla._scalars import STREAM, integer
from flashmla._torch import Proxy, Torch
from flashmla._words import a

_REFUSED: dict[str, tuple[str, int]] = {
    "bfloat16": ("uint16", ffi.integer_const("kDLBfloat")),
    "float8_e4m3fn": ("uint8", ffi.integer_const("kDLFloat8_e4m3fn")),
}
"""Types of ml_dtypes, whose arrays refuse DLPack: as which type the bits are exported, and their code there."""


class NumPy(Framework):
    """NumPy, with bfloat16 and float8_e4m3fn of ml_dtypes."""

    exports_capsules = True

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        del stream
        if tensor.dtype.kind == "V" and tensor.dtype.name in _REFUSED:
            bits, code = _REFUSED[tensor.dtype.name]
            capsule = tensor.view(bits).__dlpack__(max_version=DLPACK_VERSION)
            _tensor.pointer(capsule, argument).dtype.code = code
            return capsule
        return tensor.__dlpack__(max_version=DLPACK_VERSION)

    def empty(self, like: Any, argument: str, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        del argument, stream
        return sys.modules["numpy"].empty(shape, dtype or like.dtype)

    def address(self, tensor: Any) -> int:
        address: int = tensor.__array_interface__["data"][0]
        return address

    def compact(self, argument: str) -> str:
        return f"numpy.ascontiguousarray({argument})"

    def cast(self, argument: str, dtype: str) -> str:
        return f'{argument}.astype("{dtype}")'


class Masked(Framework):
    """Masked arrays of NumPy: an export would leave the mask behind."""

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        del stream
        raise RefusedTypeError(
            f"{argument} is {a(tensor)}, whose mask does not count here: pass {argument}.filled(value), "
            f"or {argument}.data for the array without its mask"
        )


class CuPy(Framework):
    """CuPy. Memory comes from its pool, on the stream of the call."""

    exports_capsules = True

    def empty(self, like: Any, argument: str, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        del argument
        cupy = sys.modules["cupy"]
        with like.device:
            if stream is None:
                return cupy.empty(shape, dtype or like.dtype)
            with cupy.cuda.ExternalStream(stream, like.device.id):
                return cupy.empty(shape, dtype or like.dtype)

    def address(self, tensor: Any) -> int:
        address: int = tensor.data.ptr
        return address

    def pinned(self, size: int) -> tuple[Any, int]:
        made = sys.modules["cupy"].cuda.alloc_pinned_memory(size)
        return made, made.ptr

    def current_stream(self, tensor: Any) -> int:
        stream: int = sys.modules["cupy"].cuda.get_current_stream(tensor.device.id).ptr
        return stream

    def to_host(self, tensor: Any) -> Any:
        return sys.modules["cupy"].asnumpy(tensor)

    def from_host(self, host: Any, like: Any) -> Any:
        with like.device:
            return sys.modules["cupy"].asarray(host)

    def fill(self, tensor: Any, host: Any) -> Any:
        tensor.set(host)
        return tensor

    def compact(self, argument: str) -> str:
        return f"cupy.ascontiguousarray({argument})"

    def cast(self, argument: str, dtype: str) -> str:
        return f'{argument}.astype("{dtype}")'


_OTHER = Framework()
# By the root of the module and the name of the class that makes a type one of the framework's tensors, or what stands
# for one.
_KNOWN: dict[tuple[str, str], Framework] = {
    ("numpy", "ndarray"): NumPy(),
    ("numpy", "MaskedArray"): Masked(),
    ("torch", "Tensor"): Torch(),
    ("cupy", "ndarray"): CuPy(),
    ("torch", "Proxy"): Proxy(),
    ("jaxlib", "ArrayImpl"): JAX(),
    ("jax", "Tracer"): Tracer(),
}
_BY_TYPE: dict[type, Framework] = {}


def framework_of(tensor: Any) -> Framework:
    """The framework of a tensor, or of an object that may turn out to be none."""
    kind = type(tensor)
    found = _BY_TYPE.get(kind)
    if found is None:
        keys = [(str(base.__module__).partition(".")[0], base.__qualname__) for base in kind.__mro__]
        found = next((_KNOWN[key] for key in keys if key in _KNOWN), _OTHER)
        found.met()
        _BY_TYPE[kind] = found
    return found


def exact_framework(kind: type) -> Framework | None:
    """The framework whose tensor type that is, not a subclass of it."""
    found = _KNOWN.get((str(kind.__module__).partition(".")[0], kind.__qualname__))
    if found is not None:
        found.met()
    return found


def stream_number(stream: Any) -> int:
    """A given CUDA stream as an integer."""
    if hasattr(stream, "__cuda_stream__"):  # NVIDIA's stream protocol: (version, handle)
        stream = stream.__cuda_stream__()[1]
    else:
        found = (getattr(stream, attribute) for attribute in ("cuda_stream", "ptr") if hasattr(stream, attribute))
        stream = next(found, stream)  # torch, CuPy
    return integer(stream, "stream", STREAM)
