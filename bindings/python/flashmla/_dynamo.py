"""torch.compile: a call of ours breaks its graph once and runs as it is.

PyTorch is not imported for that. Dynamo asks each function for `_torchdynamo_disable` before it looks into it, and
breaks the graph where that is true. But then it takes the frame of the function for one to compile, and those of all
that it calls. So it is told of the function's code, once PyTorch is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_REASON = "flashmla cannot be traced; for a graph without a break call it in a torch.library.custom_op of your own"
_codes: list[CodeType] = []


class _Disabled:
    """True, and the last thing that Dynamo asks before a function runs."""

    def __bool__(self) -> bool:
        keep_dynamo_out()
        return True


def eager(function: FunctionT) -> FunctionT:
    """Marks a public function: Dynamo traces neither it nor what it calls."""
    marked: Any = function
    marked._torchdynamo_disable = _Disabled()  # noqa: SLF001 - Dynamo's names
    marked._torchdynamo_disable_msg = _REASON  # noqa: SLF001
    _codes.append(function.__code__)
    keep_dynamo_out()
    return function


def keep_dynamo_out() -> None:
    """Tells Dynamo, if PyTorch is there, of the functions that it was not told of."""
    evaluation = sys.modules.get("torch._C._dynamo.eval_frame")
    strategy, action = (getattr(evaluation, f"_Frame{name}", None) for name in ("ExecStrategy", "Action"))
    if strategy is None or action is None:  # no PyTorch, or an older one, where the graph breaks inside, too
        return
    while _codes:
        evaluation.set_code_exec_strategy(_codes.pop(), strategy(action.SKIP, action.SKIP))  # type: ignore[union-attr]
