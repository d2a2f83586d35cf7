"""Makes a drawn case into a call, by the C ABI or by the package, and checks the result and everything around it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np

import c_abi
import compare
import environment
import flashmla
import properties
from attention import Result
from buffers import COMPACT, POISON, Guarded
from dsl_kernels.core.schedule_params import ROWS
from ops.dense_decode.calls import format_number
from ops.sparse_decode import oracle
from ops.sparse_decode.case import SparseCase
from ops.sparse_decode.data import Data, lengths_by_token, make_data, other_lengths, rows_of

OF_PLANS = ("q", "q_rope", "indices", "topk_length", "extra_indices", "extra_topk_length", "cu_seqlens_q")  # tensors


def plan_fields(case: SparseCase) -> dict[str, object]:
    """What a case says of plan_sparse_decode, but for tensors and buffer."""
    found: dict[str, object] = {"flags": c_abi.flags(batch_invariant=case.batch_invariant)}
    found |= {"num_splits": case.num_splits, "kv_format": format_number(case.planned_format)}
    return found | ({"max_seqlen_q": case.s_q} if case.cu_seqlens_q is not None else {})


def fields(case: SparseCase) -> dict[str, object]:
    """What a case says of sparse_decode, but for tensors, plan and workspace."""
    found: dict[str, object] = {
        "flags": c_abi.flags(
            default_scale=case.softmax_scale is None,
            lse_base2=case.lse_base2,
            empty_lse_minus=case.empty_lse_minus,
            batch_invariant=case.batch_invariant,
        ),
        "num_threads": case.num_threads,
    }
    found |= {f"{prefix}kv_format": format_number(cache.kv_format) for prefix, cache in case.caches.items()}
    if case.softmax_scale is not None:
        found["softmax_scale"] = case.softmax_scale
    if case.cu_seqlens_q is not None:
        found["max_seqlen_q"] = case.s_q
    return found


class Tensors:
    """The input tensors of a case on a backend."""

    def __init__(self, case: SparseCase, backend, data: Data | None = None):
        self.case, self.backend = case, backend
        self.adapter = backend.adapter(case.route)
        self.data = make_data(case) if data is None else data
        queries = case.parts_of_q(self.data.q)
        self.guarded = {
            name: self.place(name, queries[name] if name in queries else self.data.tensor(name)) for name in case.inputs
        }

    def place(self, name: str, values=None) -> Guarded:
        """One tensor of the case in a guarded buffer."""
        case = self.case
        layout = case.layout_of(name)
        return Guarded(self.adapter, case.shapes()[name], case.dtype_of(name), layout, case.granule_of(name), values)

    def scratch(self, size: int) -> Guarded:
        """`size` bytes for a workspace or a plan."""
        return Guarded(self.adapter, (size,), "uint8", self.case.layouts.scratch, 16)

    def c_tensor(self, name: str, guarded: Guarded) -> c_abi.CTensor:
        """The DLTensor of one of the case's tensors."""
        return c_abi.CTensor.of(guarded, self.backend.device, compact=self.case.layout_of(name) == COMPACT)

    def c_call(self, **outputs: Guarded) -> c_abi.CCall:
        """A complete C call but for its plan and workspace."""
        tensors = {name: self.c_tensor(name, guarded) for name, guarded in (self.guarded | outputs).items()}
        return c_abi.CCall("sparse_decode", tensors, fields(self.case))

    def c_plan_call(self, **replaced: Guarded) -> c_abi.CCall:
        """A complete C call of plan_sparse_decode but for its buffer; `replaced`: other inputs of the same names."""
        given = {name: guarded for name, guarded in (self.guarded | replaced).items() if name in OF_PLANS}
        tensors = {name: self.c_tensor(name, guarded) for name, guarded in given.items()}
        return c_abi.CCall("plan_sparse_decode", tensors, plan_fields(self.case))

    def give_scratch(self, call: c_abi.CCall) -> Guarded:
        """As much as the call asks for."""
        status, size = call.size()
        assert status == 0, c_abi.last_error()
        scratch = self.scratch(size)
        call.give_scratch(self.adapter.address(scratch.tensor), size)
        return scratch

    def package_plan_call(self, **replaced: Guarded) -> tuple[list, dict[str, object]]:
        """Arguments of the package's plan_sparse_decode, but for its buffer."""
        case = self.case
        given = {name: one.tensor for name, one in (self.guarded | replaced).items() if name in OF_PLANS}
        positional = [given.pop("q"), given.pop("indices")]
        return positional, given | {
            "batch_invariant": case.batch_invariant,
            "num_splits": case.num_splits,
            "kv_format": case.planned_format,
            "max_seqlen_q": case.s_q if case.cu_seqlens_q is not None else 0,
        }

    def package_call(self) -> tuple[list, dict[str, object]]:
        """Arguments of the package's function that its size query takes too."""
        case, optional = self.case, ("q", "kv_cache", "indices")
        options: dict[str, object] = {
            name: guarded.tensor
            for name, guarded in self.guarded.items()
            if name not in optional and not name.endswith("descale_k")
        }
        options |= {f"{prefix}kv_format": cache.kv_format for prefix, cache in case.caches.items()}
        options |= {"max_seqlen_q": case.s_q} if case.cu_seqlens_q is not None else {}
        return [self.guarded[name].tensor for name in optional], options | {"batch_invariant": case.batch_invariant}

    def package_options(self) -> dict[str, object]:
        """The other arguments, but for outputs and workspace."""
        case = self.case
        options: dict[str, object] = {
            "softmax_scale": case.softmax_scale,
            "num_threads": case.num_threads,
            "lse_base2": case.lse_base2,
            "empty_lse": -np.inf if case.empty_lse_minus else np.inf,
        }
        options |= {name: one.tensor for name, one in self.guarded.items() if name.endswith("descale_k")}
        return options if "out" in case.given else options | {"out_dtype": case.out_dtype}


@dataclass
class Plan:
    """A plan of either route and the buffer it lies in, if the test made that."""

    handle: object
    buffer: Guarded | None


def make_plan(tensors: Tensors) -> Plan | None:
    """The plan that the case is called with, which is made with other lengths and offsets where it is stale."""
    case, adapter = tensors.case, tensors.adapter
    if case.plan == "none":
        return None
    other = other_lengths(case) if case.plan == "stale" else {}
    replaced = {name: tensors.place(name, values) for name, values in other.items()}
    if case.route == "c":
        call = tensors.c_plan_call(**replaced)
        buffer: Guarded | None = tensors.give_scratch(call)
        handle = c_abi.new_plan()
        assert call.run(handle) == 0, c_abi.last_error()
    else:
        inputs, options = tensors.package_plan_call(**replaced)
        buffer = None
        if "plan_buffer" in case.given:
            buffer = tensors.scratch(flashmla.plan_sparse_decode_size(*inputs, **options))
        handle = adapter.call(flashmla.plan_sparse_decode, *inputs, **options, buffer=buffer and buffer.tensor)
    if buffer is not None:
        buffer.check_only_elements_written("plan buffer")
        buffer.remember()
    return Plan(handle, buffer)


def decode(tensors: Tensors, plan: Plan | None = None) -> Result:
    """Runs sparse_decode and checks that it wrote its outputs and scratch and nothing else."""
    case, adapter = tensors.case, tensors.adapter
    properties.drawn[tensors.backend.name, "valid"] += 1
    through_c = case.route == "c"
    out = tensors.place("out") if through_c or "out" in case.given else None
    lse = tensors.place("lse") if "lse" in case.given else None
    outputs = {name: guarded for name, guarded in (("out", out), ("lse", lse)) if guarded is not None}
    if through_c:
        call = tensors.c_call(**outputs)
        if plan is not None:
            call.fields["plan"] = plan.handle
        workspace = tensors.give_scratch(call)
        assert call.run() == 0, c_abi.last_error()
        result = Result(out.values(), None if lse is None else lse.values())
    else:
        inputs, options = tensors.package_call()
        options["plan"] = None if plan is None else plan.handle
        workspace = None
        if "workspace" in case.given:
            workspace = tensors.scratch(flashmla.sparse_decode_workspace_size(*inputs, **options))
        made_out, made_lse = adapter.call(
            flashmla.sparse_decode,
            *inputs,
            **options,
            **tensors.package_options(),
            out=out and out.tensor,
            lse=lse and lse.tensor,
            workspace=workspace and workspace.tensor,
        )
        result = Result(
            adapter.to_numpy(made_out) if out is None else out.values(),
            adapter.to_numpy(made_lse) if lse is None else lse.values(),
        )
    for name, guarded in (*outputs.items(), ("workspace", workspace)):
        if guarded is not None:
            guarded.check_only_elements_written(name)
    for name, guarded in (*tensors.guarded.items(), ("plan buffer", plan and plan.buffer)):
        if guarded is not None:
            guarded.check_unchanged(name)
    free = free_rows(case)
    for name, guarded in outputs.items():
        rows = guarded.values()[..., free] if name == "lse" else guarded.values()[free]
        assert np.all(np.ascontiguousarray(rows).view(np.uint8) == POISON), f"{name}: rows of no request written"
    return without_free_rows(case, result)


def free_rows(case: SparseCase) -> np.ndarray:
    """The numbers of the query tokens of no request, which are not written."""
    return np.flatnonzero(case.owners() == 0) if case.cu_seqlens_q is not None else np.zeros(0, int)


def without_free_rows(case: SparseCase, result: Result) -> Result:
    """The result with zeros for the query tokens of no request."""
    free = free_rows(case)
    out, lse = result.out.copy(), None if result.lse is None else result.lse.copy()
    out[free] = 0
    if lse is not None:
        lse[..., free] = 0
    return Result(out, lse)


def run(case: SparseCase, backend, data: Data | None = None) -> Result:
    """The whole case: its plan, if it has one, and its call."""
    tensors = Tensors(case, backend, data)
    with forced(case, backend):
        return decode(tensors, make_plan(tensors))


def forced(case: SparseCase, backend) -> contextlib.AbstractContextManager:
    """Names the kernel that a paired case must have."""
    formats = case.main.kv_format, case.planned_format
    if not case.paired or backend.name != "gpu" or case.h_q <= ROWS or "bf16" in formats:
        return contextlib.nullcontext()
    return environment.variable("FLASHMLA_FORCE_KERNEL", f"sparse_decode_bf16_{case.d_qk}_{formats[0]}_pair")


def reference(case: SparseCase, data: Data) -> Result:
    """What the mathematics says about the case; zeros for the query tokens of no request."""
    count = int(np.prod(case.tokens))
    selections = [
        oracle.Selection(
            rows_of(cache, data.caches[prefix].kv_cache),
            data.caches[prefix].indices.reshape(count, cache.topk),
            lengths_by_token(case, cache),
        )
        for prefix, cache in case.caches.items()
    ]
    out, lse = oracle.sparse_decode(
        data.q.reshape(count, case.h_q, case.d_qk),
        selections,
        case.softmax_scale,
        case.d_v,
        sink=data.attn_sink,
        lse_base2=case.lse_base2,
        empty_lse=-np.inf if case.empty_lse_minus else np.inf,
    )
    lse = np.moveaxis(lse.reshape(*case.tokens, case.h_q), -1, -2)
    return without_free_rows(case, Result(out.reshape(case.shapes()["out"]), lse))


def bound_of(case: SparseCase) -> compare.Tolerance:
    return sunk(case, compare.tolerance("sparse_decode", case.dtype, case.softmax_scale, case.d_qk))


def sunk(case: SparseCase, bound: compare.Tolerance) -> compare.Tolerance:
    """The bound, with what sinks add to it where the case has some."""
    return bound.sunk() if case.sink is not None else bound


def check_result(case: SparseCase, data: Data, result: Result, bound: compare.Tolerance | None = None) -> None:
    """Raises AssertionError if the result is not the oracle's within the tolerances, or these."""
    close_to(case, result, reference(case, data), sunk(case, bound or bound_of(case)))


def close_to(case: SparseCase, result: Result, wanted: Result, bound: compare.Tolerance) -> None:
    if result.lse is not None:
        natural = np.log(2) if case.lse_base2 else 1.0
        compare.check_lse(natural * result.lse.astype(np.float64), natural * wanted.lse.astype(np.float64), bound)
    compare.check_out(result.out.astype(np.float64), wanted.out.astype(np.float64), bound)


def check(case: SparseCase, backend) -> None:
    """Runs a case and compares it with the oracle."""
    data = make_data(case)
    check_result(case, data, run(case, backend, data))
