"""A plan, and the scalars that it shares with the calls that it is for."""

from __future__ import annotations

from typing import Any

from flashmla._cdef import ffi
from flashmla._operation import Operation
from flashmla._scalars import INT32, flag, integer
from flashmla._words import a

_CAUSAL: int = ffi.integer_const("FLASHMLA_CAUSAL")
_BATCH_INVARIANT: int = ffi.integer_const("FLASHMLA_BATCH_INVARIANT")


class Plan:
    """The split-KV schedule of one decode step, from `plan_decode`. Opaque; keeps its buffer alive.

    It serves every call with the shapes, dtype, flags and device it was made for, from any thread. Lengths may change
    afterwards: results stay right, only the balance suffers. copy.copy gives another name of the same schedule. To
    pickle or deep-copy it raises a TypeError, since its schedule may lie on a device.

    >>> flashmla.plan_decode(q, kv_cache, block_table, cache_seqlens)
    <flashmla.Plan q=(2, 1, 16, 576), kv_cache=(4, 64, 1, 576), causal=False, batch_invariant=False, num_splits=0>
    """

    __slots__ = ("_buffer", "_facts", "address", "c")

    def __init__(self, c: Any, address: int, buffer: Any, facts: tuple[Any, ...]) -> None:
        self.c = c
        self.address = address
        self._buffer = buffer
        self._facts = facts

    def __copy__(self) -> Plan:
        return Plan(self.c, self.address, self._buffer, self._facts)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise no_copy("Plan", "plan_decode")

    def __repr__(self) -> str:
        q_shape, kv_shape, causal, batch_invariant, num_splits = self._facts
        facts = {
            "q": tuple(q_shape),
            "kv_cache": tuple(kv_shape),
            "causal": bool(causal),  # 1 and NumPy's bool were accepted too
            "batch_invariant": bool(batch_invariant),
            "num_splits": num_splits,
        }
        return f"<flashmla.Plan {', '.join(f'{name}={value}' for name, value in facts.items())}>"


def no_copy(kind: str, maker: str) -> TypeError:
    """What is raised where something that holds memory of a device is pickled or copied."""
    return TypeError(
        f"a flashmla.{kind} cannot be pickled or deep-copied: it holds addresses. Make another one with {maker}, where "
        "it is needed"
    )


def step_params(operation: Operation, causal: Any, batch_invariant: Any, max_seqlen_q: Any) -> Any:
    """The params struct of `operation` with the scalars that a plan and the calls it is for share."""
    params = operation.new_params()
    params.flags |= (_CAUSAL if flag(causal, "causal") else 0) | (
        _BATCH_INVARIANT if flag(batch_invariant, "batch_invariant") else 0
    )
    params.max_seqlen_q = integer(max_seqlen_q, "max_seqlen_q", INT32)
    return params


def check_plan(plan: Any) -> None:
    """What is given as a plan is one."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan is {a(plan)}: what plan_decode returned is needed")
