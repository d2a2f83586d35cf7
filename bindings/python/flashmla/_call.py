"""What the operations share: the params struct of one call, the tensors it names, their stream and their lifetime."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from flashmla._cdef import ffi
from flashmla._frameworks import framework_of, stream_number
from flashmla._library import lib
from flashmla._scalars import flag, real
from flashmla._tensor import CUDA, DTYPES, described, device, memory, pointer, read_only
from flashmla.errors import check, invalid

_POINTER = ffi.typeof("void *")
_BYTE_COUNT = ffi.typeof("uint64_t *")
_LSE_BASE2: int = ffi.integer_const("FLASHMLA_LSE_BASE2")
_EMPTY_LSE_MINUS: int = ffi.integer_const("FLASHMLA_EMPTY_LSE_MINUS")


class Params(NamedTuple):
    """A params struct of flashmla.h."""

    pointer: Any
    size: int


def params_type(name: str) -> Params:
    """The params struct of that name."""
    return Params(ffi.typeof(f"{name} *"), ffi.sizeof(name))


class Call:
    """One call of the C library: its params struct, and all that must live until the work is enqueued.

    The first tensor of the call, named by `argument`, is the model of outputs and scratch: they are made by its
    framework on its device.
    """

    __slots__ = ("_argument", "_first", "_framework", "_keep", "_own", "_place", "_stream", "model", "params")

    def __init__(self, kind: Params, first: Any, argument: str, stream: Any) -> None:
        self._first = first
        self._argument = argument
        self._framework = framework = framework_of(first)
        current = framework.current_stream(first) if stream is None else None
        self._own = None if current is None else framework  # whose current stream it is
        # CUDA's legacy default stream, 0, where nobody named one: exporters make it wait for their work.
        self._stream = number = (0 if stream is None else stream_number(stream)) if current is None else current
        self._keep: list[Any] = []
        self.params = params = ffi.new(kind.pointer)
        params.struct_size = kind.size
        params.stream = ffi.cast(_POINTER, number)
        self.model = self.read(first, argument)
        self._place = device(self.model)

    def read(self, tensor: Any, argument: str) -> Any:
        """A tensor of the caller as a `DLTensor *`. What its exporter says against it is the message."""
        framework = framework_of(tensor)
        try:
            capsule = framework.export(tensor, argument, None if framework is self._own else self._stream)
        except BufferError as error:
            raise invalid("FLASHMLA_ERROR_DTYPE", f"{argument}: {error}") from error
        self._keep.append(capsule)
        return pointer(capsule, argument)

    def write(self, tensor: Any, argument: str) -> Any:
        """A tensor of the caller that may be written, as a `DLTensor *`."""
        found = self.read(tensor, argument)
        if not framework_of(tensor).mutable or read_only(self._keep[-1]):
            raise invalid("FLASHMLA_ERROR_VALUE", f"{argument} is read-only and would be written")
        return found

    def describe(self, extents: tuple[int, ...], dtype: str | None) -> Any:
        """A tensor to be made by `make`, as a `DLTensor *` without memory. `dtype` None is the model's."""
        if dtype is None:
            kind = self.model.dtype
            found, owner = described(extents, (kind.code, kind.bits), self._place)
        else:
            found, owner = described(extents, DTYPES[dtype], self._place)
        self._keep += (found, owner)
        return found

    def make(self, extents: tuple[int, ...], dtype: str | None) -> tuple[Any, Any]:
        """A new tensor and its address."""
        stream = self._stream if self._own is None else None
        made = self._framework.empty(self._first, self._argument, extents, dtype, stream)
        return made, ffi.cast(_POINTER, self._framework.address(made))

    def scratch(self, given: Any, size: int, argument: str) -> tuple[Any, Any, int]:
        """A caller's buffer, or a new one of `size` bytes: (what keeps it alive, address, bytes)."""
        if given is not None:
            tensor = self.write(given, argument)
            if device(tensor) != self._place:
                places = f"{argument} is on DLPack device {device(tensor)}, {self._argument} is on {self._place}"
                raise invalid("FLASHMLA_ERROR_MIXED_DEVICES", places)
            return self._keep[-1], *memory(tensor, argument)
        if size == 0:
            return None, ffi.NULL, 0
        made, address = self.make((size,), "uint8")
        self._keep.append(made)
        return made, address, size

    def query(self, size_of: Any) -> int:
        """The answer of a size query."""
        size = ffi.new(_BYTE_COUNT)
        check(lib, size_of(self.params, size))
        return int(size[0])

    def run(self, operation: Any, *more: Any) -> None:
        """Calls the operation, and waits for a framework that must not see unfinished results."""
        check(lib, operation(self.params, *more))
        if self._framework.waits:
            device_type, device_id = self._place
            if device_type == CUDA:
                check(lib, lib.flashmla_stream_synchronize(device_id, self.params.stream))


def dtype_of_new(out: Any, out_dtype: str | None) -> str | None:
    """The dtype that an `out` is to be made with; None is the model's."""
    if out_dtype is None:
        return None
    if not isinstance(out_dtype, str) or out_dtype not in DTYPES:
        raise invalid("FLASHMLA_ERROR_DTYPE", f"out_dtype is {out_dtype!r}; it must be None or one of {[*DTYPES]}")
    if out is not None:
        raise invalid("FLASHMLA_ERROR_DTYPE", f"out_dtype is {out_dtype!r}, but out is given: it has its own dtype")
    return out_dtype


def lse_flags(*, lse_base2: bool, empty_lse: float) -> int:
    """The flags that tell how log-sum-exps are written."""
    flags = _LSE_BASE2 if flag(lse_base2, "lse_base2") else 0
    value = real(empty_lse, "empty_lse")
    if value == -math.inf:
        return flags | _EMPTY_LSE_MINUS
    if value != math.inf:
        raise invalid("FLASHMLA_ERROR_VALUE", f"empty_lse is {empty_lse}; it must be inf or -inf")
    return flags


def lse_shape(out_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(..., tokens, heads, d_v) -> (..., heads, tokens). For a wrong rank it is nonsense, and C refuses the model."""
    return (*out_shape[:-3], *out_shape[-2:-1], *out_shape[-3:-2])
