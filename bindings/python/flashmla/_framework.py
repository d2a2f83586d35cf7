"""What differs between frameworks: exporting a tensor, making one like q, the current stream. The base of all of them.

Nothing here imports a framework: whoever passes a tensor of one has imported it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flashmla import _tensor
from flashmla._words import a

DLPACK_VERSION = (1, 0)
# Streams in DLPack (array API standard, `__dlpack__`): 1 is CUDA's legacy default stream, which CUDA calls 0; -1 asks
# for no synchronisation.
_LEGACY_STREAM = 1
_NO_WAIT = -1


Described = tuple[tuple[int, ...], "str | None"]
"""Shape and dtype of a tensor to be made; None is the dtype of the tensor that it is made like."""


class Condition(NamedTuple):
    """What must hold for a call, as exchange.h describes it. `value` is compared by identity."""

    value: object
    of_tensors: bool = False
    function: Any = None
    attribute: str | None = None
    object: Any = None
    unless: Any = None


class RefusedTypeError(TypeError):
    """What an export raises for a type that is a tensor by its protocol and none by what it means."""


class Framework:
    """Any other DLPack exporter: it can be read and written, but no tensor of it can be made.

    A `stream` of None is the framework's own current one: its tensors are ready there and its memory belongs there.
    """

    mutable = True
    """Tensors may be written by others."""
    exports_capsules = False
    """`export` takes little time and makes capsules of DLPack 1."""
    waits = False
    """An operation returns when its results are there."""

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        """A DLPack capsule whose contents are ready for work on `stream`."""
        del argument
        on_device = tensor.__dlpack_device__()[0] != _tensor.CPU
        options: dict[str, Any] = {}
        if on_device:
            options["stream"] = _NO_WAIT if stream is None else stream or _LEGACY_STREAM
        try:
            return tensor.__dlpack__(max_version=DLPACK_VERSION, **options)
        except TypeError as error:
            # An exporter older than DLPack 1.0 refuses the argument by name, or as C code does, without a frame.
            inside = error.__traceback__ is not None and error.__traceback__.tb_next is not None
            if inside and "max_version" not in str(error):
                raise
        return tensor.__dlpack__(**options)

    def empty(self, like: Any, argument: str, shape: tuple[int, ...], dtype: str | None, stream: int | None) -> Any:
        """A new compact tensor, device as `like`, for work on `stream`. `dtype` None is that of `like`."""
        del shape, dtype, stream
        raise TypeError(
            f"{argument} is {a(like)}: memory is made for torch, CuPy, JAX, NumPy; "
            "pass what the call would make: its outputs (out, lse) and its scratch (workspace, buffer)"
        )

    def empties(self, like: Any, argument: str, made: Sequence[Described], stream: int | None) -> Sequence[Any]:
        """`empty` for several (shape, dtype)."""
        return [self.empty(like, argument, shape, dtype, stream) for shape, dtype in made]

    def maker(self, shape: tuple[int, ...], dtype: str | None) -> Callable[[Any], Any]:
        """`empty` of that shape and dtype for work on the current stream, as a function of `like`."""
        return lambda like: self.empty(like, "", shape, dtype, None)

    def pinned(self, size: int) -> tuple[Any, int]:
        """Host memory of so many bytes that a GPU copies from by itself: what keeps it, and its address."""
        del size
        raise TypeError("pinned host memory is made by torch and CuPy: a cache on a GPU has to be of one of them")

    def address(self, tensor: Any) -> int:
        """Address of the first element of a tensor from `empty`."""
        raise NotImplementedError

    def current_stream(self, tensor: Any) -> int | None:
        """The CUstream that the framework is using on the tensor's device; None if it does not tell."""
        del tensor
        return None

    def to_host(self, tensor: Any) -> Any:
        """A tensor with the same values in host memory; itself where it lies there."""
        if tensor.__dlpack_device__()[0] == _tensor.CPU:
            return tensor
        raise TypeError(f"{a(tensor)} cannot be copied to the host: memory is made for torch, CuPy, JAX, NumPy")

    def from_host(self, host: Any, like: Any) -> Any:
        """A tensor with the values of one in host memory, on the device of `like`."""
        del like
        return host

    def fill(self, tensor: Any, host: Any) -> Any:
        """The tensor, with the values of one that `to_host` made of it."""
        del host
        return tensor

    def conditions(self) -> tuple[Condition, ...] | None:
        """What must hold where a tensor type's DLPack exchange table is used, and the table does not tell.

        None: the type's table is not used.
        """
        return None

    def require_computing(self, argument: str) -> None:
        """Raises where calls are only recorded, not made; `argument` is a tensor of the framework."""

    def met(self) -> None:
        """Called when the first tensor of a type is met."""

    def compact(self, argument: str) -> str | None:
        """What users write for a compact copy of an argument; None if that is not known."""
        del argument
        return None

    def cast(self, argument: str, dtype: str) -> str | None:
        """What users write for an argument as another dtype."""
        del argument, dtype
        return None
