"""A plan, how it is made, and the scalars that it shares with the calls that it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flashmla._cdef import ffi
from flashmla._exchange import UNUSUAL
from flashmla._on_error import recovered
from flashmla._operation import Operation, Ready, enqueued
from flashmla._scalars import INT32, flag, integer
from flashmla._tensor import shape
from flashmla._words import a
from flashmla.errors import DeviceError, UnsupportedError

_CAUSAL: int = ffi.integer_const("FLASHMLA_CAUSAL")
_BATCH_INVARIANT: int = ffi.integer_const("FLASHMLA_BATCH_INVARIANT")
_PLAN = ffi.typeof("flashmla_plan *")
_NUMBER = ffi.typeof("uintptr_t")  # looked up once: each time it would take half a microsecond
_TOLD = {"causal": bool, "batch_invariant": bool, "num_splits": int}  # 1 and NumPy's bool are flags; others are shapes


class Plan:
    """The split-KV schedule of one decode step, from `plan_decode` or `plan_sparse_decode`.

    Opaque; keeps its buffer alive. It serves every call with the shapes, dtype, flags and device it was made for, from
    any thread. Lengths may change afterwards: results stay right, only the balance suffers. copy.copy gives another
    name of the same schedule. To pickle or deep-copy it raises a TypeError, since its schedule may lie on a device.

    >>> flashmla.plan_decode(q, kv_cache, block_table, cache_seqlens)
    <flashmla.Plan q=(2, 1, 16, 576), kv_cache=(4, 64, 1, 576), causal=False, batch_invariant=False, num_splits=0>
    """

    __slots__ = ("_buffer", "_facts", "address", "c")

    def __init__(self, c: Any, address: int | None, buffer: Any, facts: dict[str, Any]) -> None:
        """`c` and `address` None: no plan could be made, and calls schedule themselves (on_error)."""
        self.c = c
        self.address = address
        self._buffer = buffer
        self._facts = facts

    def __copy__(self) -> Plan:
        return Plan(self.c, self.address, self._buffer, self._facts)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise no_copy("Plan", "plan_decode or plan_sparse_decode")

    def __repr__(self) -> str:
        facts = (f"{name}={_TOLD.get(name, tuple)(value)}" for name, value in self._facts.items())
        return f"<flashmla.Plan {', '.join(facts)}>"


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


def make_plan(
    operation: Operation,
    scalars: tuple[Any, ...],
    inputs: Sequence[Any],
    facts: dict[str, Any],
    *,
    buffer: Any,
    stream: Any,
) -> Plan:
    """Makes a plan. `inputs` as in the table of the operation; `facts`: the scalars that its repr tells."""
    options = operation.options_of(scalars)
    c = ffi.new(_PLAN)
    address = int(ffi.cast(_NUMBER, c))
    fast, failed = options.fast[type(inputs[0])] if stream is None else None, None
    if fast is not None:
        try:
            made = fast.call(*inputs, buffer, address)
        except Exception:  # noqa: BLE001 - whatever the tensors' framework said: the long way says it better
            made = UNUSUAL
        if type(made) is not int or made == 0:
            kept = buffer if type(made) is int else made
            first, second, *_ = operation.inputs
            return Plan(c, address, kept, {first: inputs[0].shape, second: inputs[1].shape, **facts})
        failed = enqueued(made)
    try:
        if failed is not None:
            raise failed
        ready = operation.ready(options, inputs, scratch=buffer, stream=stream)
        ready.run(operation.run, c)
    except (UnsupportedError, DeviceError) as error:
        recovered(error, operation, options, inputs, (), stream)
        return Plan(None, None, None, facts)
    return Plan(c, address, ready.scratch, _shapes(operation, ready) | facts)


def unmade_plan(operation: Operation, ready: Ready, facts: dict[str, Any]) -> Plan:
    """The plan that a prepared call fills when it runs."""
    c = ffi.new(_PLAN)
    return Plan(c, int(ffi.cast(_NUMBER, c)), ready.scratch, _shapes(operation, ready) | facts)


def _shapes(operation: Operation, ready: Ready) -> dict[str, Any]:
    """Of the first two tensors, which a plan's repr tells."""
    return {name: shape(getattr(ready.call.params, name)) for name in operation.inputs[:2]}


def check_plan(plan: Any) -> None:
    """What is given as a plan is one."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan is {a(plan)}: a flashmla.Plan is needed")
