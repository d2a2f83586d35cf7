"""Calls of merge_states as plain facts, their data, and what they must give."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

import c_abi
import compare
import flashmla
from attention import Result
from buffers import ALIGNMENT, COMPACT, DTYPES, Guarded, Layout
from ops.merge_states import oracle


@dataclass(frozen=True)
class MergeCase:
    """A legal call of merge_states."""

    dtype: str = "bfloat16"  # of the parts
    out_dtype: str | None = None  # None: dtype
    num_states: int = 2
    stacked: bool = False
    batch: int | None = 1  # None: the form of variable-length queries
    s_q: int = 1
    h_q: int = 1
    d_v: int = 512
    empty: float = 0.3  # share of rows of a part that are empty
    all_empty: float = 0.1  # share of rows that are empty in all parts
    lse_base2: bool = False
    empty_lse_minus: bool = False
    given: tuple[str, ...] = ()  # of out and lse: those the caller provides; by the C ABI out always is
    num_threads: int = 0
    route: str = "c"
    part_layouts: tuple[tuple[Layout, Layout], ...] = ((COMPACT, COMPACT),)  # of out and lse, in turns
    result_layouts: tuple[Layout, Layout] = (COMPACT, COMPACT)
    seed: int = 0

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (*(() if self.batch is None else (self.batch,)), self.s_q, self.h_q, self.d_v)

    @property
    def lse_shape(self) -> tuple[int, ...]:
        return (*self.out_shape[:-3], self.h_q, self.s_q)

    def but(self, **changes) -> MergeCase:
        return replace(self, **changes)


def make_parts(case: MergeCase) -> tuple[np.ndarray, np.ndarray]:
    """outs (n, ...) and lses (n, ...): an empty part has an infinity of either sign, and anything in its out."""
    rng = np.random.default_rng(case.seed)
    outs = rng.standard_normal((case.num_states, *case.out_shape), np.float32).astype(DTYPES[case.dtype])
    lses = rng.normal(0, rng.choice([1, 8]), (case.num_states, *case.lse_shape)).astype(np.float32)
    empty = (rng.random(lses.shape) < case.empty) | (rng.random(case.lse_shape) < case.all_empty)
    lses[empty] = rng.choice(np.array([np.inf, -np.inf], np.float32), int(empty.sum()))
    outs[np.swapaxes(empty, -1, -2)] = DTYPES[case.dtype].type(rng.choice([np.nan, np.inf, 0.0]))
    return outs, lses


def merge_fields(case) -> dict[str, object]:
    """What a MergeCase says of merge_states, but for tensors."""
    return {
        "flags": c_abi.flags(lse_base2=case.lse_base2, empty_lse_minus=case.empty_lse_minus),
        "num_states": 0 if case.stacked else case.num_states,
        "num_threads": case.num_threads,
    }


class Parts:
    """The tensors of a case on a backend."""

    def __init__(self, case: MergeCase, backend, numbers: tuple[np.ndarray, np.ndarray] | None = None):
        self.case, self.backend = case, backend
        self.adapter = backend.adapter(case.route)
        self.numbers = make_parts(case) if numbers is None else numbers
        outs, lses = self.numbers
        layouts = [case.part_layouts[i % len(case.part_layouts)] for i in range(case.num_states)]
        if case.stacked:
            outs, lses, layouts = outs[None], lses[None], layouts[:1]
        self.outs = [self.place_out(case.dtype, layout[0], out) for out, layout in zip(outs, layouts, strict=True)]
        self.lses = [self.place_lse(layout[1], lse) for lse, layout in zip(lses, layouts, strict=True)]

    def place_out(self, dtype: str, layout: Layout, values: np.ndarray | None = None) -> Guarded:
        """Parts, one or stacked, or room for a result."""
        shape = self.case.out_shape if values is None else values.shape
        return Guarded(self.adapter, shape, dtype, layout, ALIGNMENT // DTYPES[dtype].itemsize, values)

    def place_lse(self, layout: Layout, values: np.ndarray | None = None) -> Guarded:
        shape = self.case.lse_shape if values is None else values.shape
        return Guarded(self.adapter, shape, "float32", layout, 1, values)

    def output(self, name: str) -> Guarded:
        """Room for out or lse."""
        layout = dict(zip(("out", "lse"), self.case.result_layouts, strict=True))[name]
        return (
            self.place_out(self.case.out_dtype or self.case.dtype, layout) if name == "out" else self.place_lse(layout)
        )

    def c_call(self, **outputs: Guarded) -> c_abi.CCall:
        def tensor(guarded: Guarded) -> c_abi.CTensor:
            return c_abi.CTensor.of(guarded, self.backend.device, compact=False)

        tensors = {"outs": [tensor(out) for out in self.outs], "lses": [tensor(lse) for lse in self.lses]}
        tensors |= {name: tensor(guarded) for name, guarded in outputs.items()}
        return c_abi.CCall("merge_states", tensors, merge_fields(self.case))


def run(parts: Parts) -> Result:
    """Merges, and checks that the outputs were written and nothing else."""
    case, adapter = parts.case, parts.adapter
    through_c = case.route == "c"
    names = [name for name in ("out", "lse") if name in case.given or (through_c and name == "out")]
    outputs = {name: parts.output(name) for name in names}
    made = {}
    if through_c:
        assert parts.c_call(**outputs).run() == 0, c_abi.last_error()
    else:
        outs, lses = ([guarded.tensor for guarded in tensors] for tensors in (parts.outs, parts.lses))
        if case.stacked:
            outs, lses = outs[0], lses[0]
        made["out"], made["lse"] = adapter.call(
            flashmla.merge_states,
            outs,
            lses,
            lse_base2=case.lse_base2,
            empty_lse=-math.inf if case.empty_lse_minus else math.inf,
            num_threads=case.num_threads,
            stacked=case.stacked,
            **({} if "out" in names else {"out_dtype": case.out_dtype}),
            **{name: guarded.tensor for name, guarded in outputs.items()},
        )
    for name, guarded in outputs.items():
        guarded.check_only_elements_written(name)
    for guarded in (*parts.outs, *parts.lses):
        guarded.check_unchanged("a part")
    values = {name: adapter.to_numpy(tensor) for name, tensor in made.items()}
    values |= {name: guarded.values() for name, guarded in outputs.items()}
    return Result(values["out"], values.get("lse"))


def check_result(case: MergeCase, numbers: tuple[np.ndarray, np.ndarray], result: Result) -> None:
    """Raises AssertionError if the result is not the oracle's within the tolerances."""
    outs, lses = numbers
    empty_lse = -np.inf if case.empty_lse_minus else np.inf
    with np.errstate(invalid="ignore"):
        out, lse = oracle.merge_states(outs.astype(np.float64), lses, lse_base2=case.lse_base2, empty_lse=empty_lse)
    bound = compare.tolerance("merge_states", case.out_dtype or case.dtype)
    if result.lse is not None:
        compare.check_lse(result.lse.astype(np.float64), lse, bound)
    compare.check_out(result.out.astype(np.float64), out, bound)


def check(case: MergeCase, backend) -> None:
    """Runs a case and compares it with the oracle."""
    parts = Parts(case, backend)
    check_result(case, parts.numbers, run(parts))
