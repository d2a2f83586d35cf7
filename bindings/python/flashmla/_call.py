"""One call of the C library, the long way: its params struct, the tensors it names, their stream and their lifetime."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from typing import Any

from flashmla._cdef import ffi
from flashmla._framework import Described, RefusedTypeError
from flashmla._frameworks import framework_of, stream_number
from flashmla._library import lib
from flashmla._tensor import CUDA, MADE, described, device, memory, pointer, read_only
from flashmla._words import a
from flashmla.errors import FlashMLAError, InvalidArgumentError, check, invalid

_POINTER = ffi.typeof("void *")
_BYTE_COUNT = ffi.typeof("uint64_t *")
# The beginning of the library's sentences on what a copy of a tensor would mend.
_STRIDES = re.compile(r"(\w+(?:\[\d+\])?)\.strides\[")
_DTYPE = re.compile(r"(\w+(?:\[\d+\])?)\.dtype is \w+; it must be (\w+)$")


class Call:
    """A call in the making. `params` holds its scalars; `Operation.ready` adds the tensors.

    The first tensor of the call, named by `argument`, is the model of outputs and scratch: they are made by its
    framework on its device.
    """

    __slots__ = ("_argument", "_device", "_inputs", "_keep", "_own", "_stream", "first", "framework", "model", "params")

    def __init__(self, params: Any, first: Any, argument: str, stream: Any) -> None:
        self.first = first
        self.framework = framework = framework_of(first)
        self._argument = argument
        current = framework.current_stream(first) if stream is None else None
        self._own = None if current is None else framework  # whose current stream it is
        # CUDA's legacy default stream, 0, where nobody named one: exporters make it wait for their work.
        self._stream = (0 if stream is None else stream_number(stream)) if current is None else current
        self._begin(params)
        self.model = self.read(first, argument)
        self._device = device(self.model)

    def _begin(self, params: Any) -> None:
        params.stream = ffi.cast(_POINTER, self._stream)
        self.params = params
        self._keep: list[Any] = []
        self._inputs: dict[str, Any] = {}

    def again(self, params: Any) -> Call:
        """The same call with other params, on the current stream if that is where this one is."""
        self.framework.require_computing(self._argument)
        call = copy.copy(self)
        if self._own is not None:
            call._stream = self._own.current_stream(self.first) or 0  # noqa: SLF001 - its own
        call._begin(params)  # noqa: SLF001
        return call

    def read(self, tensor: Any, argument: str) -> Any:
        """A tensor of the caller as a `DLTensor *`. What its exporter says against it is the message."""
        framework = framework_of(tensor)
        try:
            capsule = framework.export(tensor, argument, None if framework is self._own else self._stream)
        except (FlashMLAError, MemoryError, RefusedTypeError):
            raise
        except BufferError as error:
            raise invalid("FLASHMLA_ERROR_DTYPE", f"{argument}: {error}") from error
        except Exception as error:
            if not hasattr(tensor, "__dlpack_device__"):
                raise TypeError(f"{argument} is {a(tensor)}: a tensor that supports DLPack is needed") from None
            words = f"{argument} is {a(tensor)} whose export raised {type(error).__qualname__}: {error}"
            raise invalid("FLASHMLA_ERROR_VALUE", words) from error
        self._keep.append(capsule)
        self._inputs[argument] = tensor
        return pointer(capsule, argument)

    def write(self, tensor: Any, argument: str) -> Any:
        """A tensor of the caller that may be written, as a `DLTensor *`."""
        found = self.read(tensor, argument)
        del self._inputs[argument]
        if not framework_of(tensor).mutable or read_only(self._keep[-1]):
            raise invalid("FLASHMLA_ERROR_VALUE", f"{argument} is read-only and would be written")
        return found

    def keep(self, thing: Any) -> Any:
        """The thing, which lives as long as the call."""
        self._keep.append(thing)
        return thing

    def describe(self, extents: tuple[int, ...], dtype: str | None) -> Any:
        """A tensor to be made by `make`, as a `DLTensor *` without memory. `dtype` None is the model's."""
        if dtype is None:
            kind = self.model.dtype
            found, owner = described(extents, (kind.code, kind.bits), self._device)
        else:
            found, owner = described(extents, MADE[dtype], self._device)
        self._keep += (found, owner)
        return found

    def make(self, tensors: Sequence[Described]) -> list[tuple[Any, Any]]:
        """New tensors and their addresses."""
        stream = self._stream if self._own is None else None
        made = self.framework.empties(self.first, self._argument, tensors, stream)
        bits = self.model.dtype.bits
        for tensor, (extents, dtype) in zip(made, tensors, strict=True):
            # Made like the tensor as it is now; described, and written, like the one that was exported.
            if dtype is None and tensor.nbytes * 8 < math.prod(extents) * bits:
                words = f"{self._argument}.dtype is {self.first.dtype}, had {bits} bits when the call began"
                raise invalid("FLASHMLA_ERROR_DTYPE", words)
        return [(tensor, ffi.cast(_POINTER, self.framework.address(tensor))) for tensor in made]

    def scratch(self, given: Any, argument: str) -> tuple[Any, Any, int]:
        """A buffer of the caller: (what keeps it alive, address, bytes)."""
        tensor = self.write(given, argument)
        if device(tensor) != self._device:
            both = f"{argument} is on DLPack device {device(tensor)}, {self._argument} is on {self._device}"
            raise invalid("FLASHMLA_ERROR_MIXED_DEVICES", both)
        return self._keep[-1], *memory(tensor, argument)

    def query(self, size_of: Any) -> int:
        """The answer of a size query."""
        size = ffi.new(_BYTE_COUNT)
        self._check(size_of(self.params, size))
        return int(size[0])

    def _check(self, status: int) -> None:
        """Raises for a status, and tells of an input what its framework has to mend it."""
        try:
            check(lib, status)
        except InvalidArgumentError as error:
            advice = self._advice(str(error))
            if advice is not None:
                error.args = (f"{error}, as in {advice}",)
            raise

    def _advice(self, sentence: str) -> str | None:
        for about in (_STRIDES, _DTYPE):
            found = about.match(sentence)
            if found is not None and found[1] in self._inputs:
                framework = framework_of(self._inputs[found[1]])
                return framework.compact(found[1]) if about is _STRIDES else framework.cast(*found.groups())
        return None

    def run(self, operation: Any, *arguments: Any) -> None:
        """Calls the operation, and waits for a framework that must not see unfinished results."""
        self._check(operation(*arguments))
        if self.framework.waits:
            device_type, device_id = self._device
            if device_type == CUDA:
                check(lib, lib.flashmla_stream_synchronize(device_id, self.params.stream))
