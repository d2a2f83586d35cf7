"""The scalars of calls, checked once and kept with what is known of such calls: their fast ones, outputs to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashmla._exchange import Fast, FastCalls
from flashmla._scalars import flag
from flashmla._tensor import DTYPES, dtype_name, shape
from flashmla.errors import invalid

if TYPE_CHECKING:
    from flashmla._operation import Operation, Ready

_MOST_SHAPES = 1024


class _Made:
    """Calls whose outputs were made for them, counted while a profile runs."""

    on = False
    calls = 0


MADE = _Made


class Options:
    """The scalars of calls, checked: a params struct without tensors, and the fast calls with it."""

    __slots__ = ("columns", "extent", "fast", "listed", "operation", "out_dtype", "params")

    def __init__(
        self,
        operation: Operation,
        params: Any,
        *,
        out_dtype: str | None = None,
        listed: int = 0,
        extent: int = 0,
        columns: int = 0,
    ) -> None:
        self.operation = operation
        self.params = params
        self.out_dtype = out_dtype
        """dtype of an `out` that is made; None is that of the first input."""
        self.listed = listed
        """Tensors of each list; 0: a single tensor in the place of each."""
        self.extent = extent
        """Of an output that is made, where the first input does not tell it."""
        self.columns = columns
        """Of an output that is made, beside those of the first input."""
        self.fast = FastCalls(operation.form(listed or 1), params)

    def succeeded(self, kind: type, ready: Ready) -> None:
        """Learns from a call that the library accepted how to make outputs for tensors of that type and shape."""
        fast = self.fast[kind]
        if fast is not None:
            if len(fast.makers) >= _MOST_SHAPES:
                fast.makers.clear()
            fast.makers[shape(ready.call.model)] = tuple(fast.framework.maker(*facts) for facts in ready.described)


def fresh(fast: Fast, like: Any, outputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The outputs, with those that are None made. None: outputs of such shapes were not made before."""
    for output in outputs:
        if output is None:
            break
    else:
        return outputs
    try:
        makers = fast.makers.get(like.shape)
        if makers is None:
            return None
        if MADE.on:
            MADE.calls += 1
        return tuple([make(like) if output is None else output for make, output in zip(makers, outputs, strict=False)])
    except Exception:  # noqa: BLE001 - no plain tensor, or no memory: the long way says which
        return None


def dtype_of_new(out_dtype: Any) -> str | None:
    """The dtype that an `out` is to be made with, by name; None is the model's."""
    if out_dtype is None:
        return None
    name: str | None = dtype_name(out_dtype)
    if name not in DTYPES:
        names = f"None or one of {[*DTYPES]}, or such a dtype of a framework"
        raise invalid("FLASHMLA_ERROR_DTYPE", f"out_dtype is {out_dtype!r}; it must be {names}")
    return name


def check_out_dtype(out: Any, out_dtype: str | None) -> None:
    """A given out has its own dtype."""
    if out is not None and out_dtype is not None:
        raise invalid("FLASHMLA_ERROR_DTYPE", f"out_dtype is {out_dtype!r}, but out is given: it has its own dtype")


def wanted(out: Any, lse: Any, *, return_lse: Any) -> tuple[Any, ...]:
    """The outputs of a call, without an lse that nobody wants."""
    return (out, lse) if lse is not None or flag(return_lse, "return_lse") else (out,)
