"""What becomes of a call that the library or the machine could not do: `flashmla.on_error`."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flashmla._cdef import ffi
from flashmla._dynamo import eager
from flashmla._frameworks import framework_of, stream_number
from flashmla._library import lib
from flashmla._tensor import CPU
from flashmla._words import a
from flashmla.errors import FlashMLAError, check

if TYPE_CHECKING:
    from flashmla._operation import Operation
    from flashmla._options import Options

_RAISE, _CPU = "raise", "cpu"


class Failure(NamedTuple):
    """A call that failed, as the function given to `on_error` gets it."""

    operation: str
    error: FlashMLAError
    on_cpu: Callable[[], tuple[Any, ...]]
    """Makes the call on the CPU, with copies of its tensors, and returns its outputs where the caller has its own."""


@dataclass(frozen=True, order=True)
class Fallback:
    """Calls that `on_error` saved."""

    operation: str
    status: int
    reason: str
    """Of the last one."""
    count: int


Policy = str | Callable[[Failure], tuple[Any, ...]]
_policy: Policy = _RAISE
_lock = threading.Lock()
_found: dict[tuple[str, int], Fallback] = {}


@eager
def on_error(policy: Policy) -> Policy:
    """Says what becomes of calls that are right, and that this library, device or machine does not do. Returns what
    held before.

    policy  "raise": they raise, as ever
            "cpu": they are made on the CPU, with copies of their tensors, and their outputs copied to where the caller
            has its tensors. Calls that are wrong (status 1xx) still raise
            a function: it is given a `Failure`, whose `on_cpu()` does what "cpu" does, and returns the outputs of the
            call as a tuple, or raises

    It holds for all threads. Nothing is hidden: every call that was saved is counted with its reason (`fallbacks`,
    `metrics`), and the first of a kind warns. A plan that cannot be made becomes one whose calls schedule themselves.
    Prepared calls raise as ever, and so does a call whose tensors cannot be copied: where the CUDA context is lost
    (FLASHMLA_ERROR_CONTEXT_LOST) what lies on the device is gone, and the process has to start again.

    Raises TypeError for another policy.

    >>> before = flashmla.on_error("cpu")
    >>> flashmla.on_error(before)
    'cpu'
    """
    global _policy
    if policy not in (_RAISE, _CPU) and not callable(policy):
        given = repr(policy) if isinstance(policy, str) else a(policy)
        raise TypeError(f'policy is {given}: "raise", "cpu" or a function is needed')
    before, _policy = _policy, policy
    return before


@eager
def fallbacks() -> list[Fallback]:
    """The calls that `on_error` saved in this process, by operation and status: (operation, status, reason, count).
    Raises nothing.

    >>> flashmla.fallbacks()
    []
    """
    with _lock:
        return sorted(_found.values())


def recovered(
    error: FlashMLAError,
    operation: Operation,
    options: Options,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    stream: Any,
) -> tuple[Any, ...]:
    """The outputs of a call that failed, by the policy; raises where that does not help."""
    policy = _policy
    if policy == _RAISE or not error.of_library or error.status < 200:
        raise error

    def on_cpu() -> tuple[Any, ...]:
        return _on_cpu(error, operation, options, inputs, outputs, stream)

    found = on_cpu() if policy == _CPU else policy(Failure(operation.name, error, on_cpu))  # type: ignore[operator]
    if not isinstance(found, tuple) or len(found) != len(outputs):
        raise TypeError(
            f"on_error's function returned {a(found)}: a tuple of {len(outputs)} outputs is needed"
        ) from error
    _count(operation.name, error)
    return found


def _count(operation: str, error: FlashMLAError) -> None:
    key = operation, error.status
    with _lock:
        count = _found[key].count + 1 if key in _found else 1
        _found[key] = Fallback(*key, str(error), count)
    if count == 1:
        words = f"flashmla.{operation} failed and was saved by on_error: {error}; flashmla.fallbacks() counts these"
        warnings.warn(words, RuntimeWarning, stacklevel=_caller())


def _caller() -> int:
    """How many frames above this function's caller the program is that called the library."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001 - warnings count frames so, too
    while frame.f_back is not None and Path(frame.f_code.co_filename).parent == Path(__file__).parent:
        level, frame = level + 1, frame.f_back
    return level


def _on_cpu(
    error: FlashMLAError,
    operation: Operation,
    options: Options,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    stream: Any,
) -> tuple[Any, ...]:
    if operation.makes_plan:  # calls schedule themselves
        return ()
    first = inputs[0][0] if isinstance(inputs[0], (list, tuple)) else inputs[0]
    model = framework_of(first)
    try:
        if stream is not None:
            _wait(first, stream_number(stream))
        host_inputs = [_to_host(tensor) for tensor in inputs]
        ready = operation.ready(options, host_inputs, [_to_host(tensor) for tensor in outputs])
        ready.run(operation.run)
        made = tuple(
            model.from_host(host, first) if given is None else framework_of(given).fill(given, host)
            for given, host in zip(outputs, ready.outputs, strict=True)
        )
        if stream is not None:
            _wait(first, model.current_stream(first) or 0)
    except Exception as second:
        raise error from second
    return made


def _to_host(tensor: Any) -> Any:
    if tensor is None:
        return None
    if isinstance(tensor, (list, tuple)):
        return [_to_host(one) for one in tensor]
    return framework_of(tensor).to_host(tensor)


def _wait(tensor: Any, stream: int) -> None:
    """For work that a caller has on a stream of its own."""
    kind, number = tensor.__dlpack_device__()
    if kind != CPU:
        check(lib, lib.flashmla_stream_synchronize(number, ffi.cast("void *", stream)))
