"""Makes a drawn case into a call, by the C ABI or by the package, and checks the result and everything around it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

import c_abi
import compare
import flashmla
import oracle
from buffers import COMPACT, Guarded
from cases import Case, Data, make_data

INPUTS = ("q", "kv_cache", "block_table", "cache_seqlens")
IGNORED = -12345  # a stride where the extent is 1
drawn: Counter[tuple[str, str]] = Counter()  # calls made so far by (backend, "valid" or "invalid")


@dataclass
class Result:
    """What a call wrote."""

    out: np.ndarray
    lse: np.ndarray | None  # None: the caller did not want it

    def bits(self) -> tuple[bytes, bytes]:
        """For comparisons bit by bit."""
        return self.out.tobytes(), b"" if self.lse is None else self.lse.tobytes()


class Tensors:
    """The input tensors of a case on a backend."""

    def __init__(self, case: Case, backend, data: Data | None = None):
        self.case, self.backend = case, backend
        self.adapter = backend.adapter(case.route)
        self.data = make_data(case) if data is None else data
        self.guarded = {name: self.place(name, getattr(self.data, name)) for name in INPUTS}

    def place(self, name: str, values=None) -> Guarded:
        """One tensor of the case in a guarded buffer."""
        dtype = {"block_table": "int32", "cache_seqlens": "int32", "lse": "float32"}.get(name, self.case.dtype)
        granule = self.case.granule if name in {"q", "kv_cache", "out"} else 1
        return Guarded(self.adapter, self.case.shapes()[name], dtype, getattr(self.case.layouts, name), granule, values)

    def scratch(self, size: int) -> Guarded:
        """`size` bytes for a workspace or a plan."""
        return Guarded(self.adapter, (size,), "uint8", self.case.layouts.scratch, 16)

    def c_tensor(self, name: str, guarded: Guarded) -> c_abi.CTensor:
        """The DLTensor of a guarded tensor; where it is not compact, with the liberties that DLPack allows."""
        dtype = {"block_table": "int32", "cache_seqlens": "int32", "lse": "float32"}.get(name, self.case.dtype)
        compact = getattr(self.case.layouts, name) == COMPACT
        byte_offset = 0 if compact else guarded.offset
        return c_abi.CTensor(
            data=self.adapter.address(guarded.tensor) - byte_offset,
            byte_offset=byte_offset,
            device=self.backend.device,
            dtype=c_abi.DTYPE_CODES[dtype],
            shape=list(guarded.shape),
            strides=None
            if compact
            else [step if n > 1 else IGNORED for n, step in zip(guarded.shape, guarded.strides, strict=True)],
        )

    def c_call(self, operation: str, **more: Guarded) -> c_abi.CCall:
        """A complete C call but for its scratch; `more` are the outputs and inputs that replace those of the case."""
        tensors = {name: self.c_tensor(name, guarded) for name, guarded in (self.guarded | more).items()}
        scale = self.case.softmax_scale
        flags = c_abi.constant("CAUSAL") if self.case.causal else 0
        fields: dict[str, object] = {"flags": flags}
        if operation == "dense_decode":
            fields["num_threads"] = self.case.num_threads
            if scale is None:
                fields["flags"] = flags | c_abi.constant("DEFAULT_SCALE")
            else:
                fields["softmax_scale"] = scale
        return c_abi.CCall(operation, tensors, fields)

    def package_inputs(self) -> list:
        return [self.guarded[name].tensor for name in INPUTS]


@dataclass
class Plan:
    """A plan of either route and the buffer it lies in, if the test made that."""

    handle: object
    buffer: Guarded | None


def make_plan(tensors: Tensors, lengths=None, num_splits: int | None = None) -> Plan:
    """Makes a plan for the case's call, with its lengths and number of splits or with other ones."""
    case = tensors.case
    num_splits = case.num_splits if num_splits is None else num_splits
    other = {} if lengths is None else {"cache_seqlens": tensors.place("cache_seqlens", lengths)}
    if case.route != "c":
        inputs = [(tensors.guarded | other)[name].tensor for name in INPUTS]
        options = {"causal": case.causal, "num_splits": num_splits}
        buffer = None
        if "plan_buffer" in case.given:
            buffer = tensors.scratch(flashmla.plan_decode_size(*inputs, **options))
        handle = flashmla.plan_decode(*inputs, **options, buffer=buffer and buffer.tensor)
    else:
        call = tensors.c_call("plan_decode", **other)
        call.fields["num_splits"] = num_splits
        status, size = call.size()
        assert status == 0, c_abi.last_error()
        buffer = tensors.scratch(size)
        call.fields |= {"buffer": tensors.adapter.address(buffer.tensor), "buffer_size": size}
        handle = c_abi.new_plan()
        assert call.run(handle) == 0, c_abi.last_error()
    if buffer is not None:
        buffer.check_only_elements_written("plan buffer")
        buffer.remember()
    return Plan(handle, buffer)


def decode(tensors: Tensors, plan: Plan | None = None) -> Result:
    """Runs dense_decode and checks that it wrote its outputs and scratch and nothing else."""
    case, adapter = tensors.case, tensors.adapter
    drawn[tensors.backend.name, "valid"] += 1
    through_c = case.route == "c"
    out = tensors.place("out") if through_c or "out" in case.given else None
    lse = tensors.place("lse") if "lse" in case.given else None
    outputs = {name: guarded for name, guarded in (("out", out), ("lse", lse)) if guarded is not None}
    handle = None if plan is None else plan.handle
    if through_c:
        call = tensors.c_call("dense_decode", **outputs)
        if handle is not None:
            call.fields["plan"] = handle
        status, size = call.size()
        assert status == 0, c_abi.last_error()
        workspace = tensors.scratch(size)
        call.fields |= {"workspace": adapter.address(workspace.tensor), "workspace_size": size}
        assert call.run() == 0, c_abi.last_error()
        result = Result(out.values(), None if lse is None else lse.values())
    else:
        inputs = tensors.package_inputs()
        options = {"causal": case.causal, "plan": handle}
        workspace = None
        if "workspace" in case.given:
            workspace = tensors.scratch(flashmla.dense_decode_workspace_size(*inputs, **options))
        made_out, made_lse = flashmla.dense_decode(
            *inputs,
            **options,
            softmax_scale=case.softmax_scale,
            out=out and out.tensor,
            lse=lse and lse.tensor,
            workspace=workspace and workspace.tensor,
            num_threads=case.num_threads,
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
    return result


def run(case: Case, backend, data: Data | None = None) -> Result:
    """The whole case: its plan, if it has one, and its call."""
    tensors = Tensors(case, backend, data)
    plan = None
    if case.plan != "none":
        plan = make_plan(tensors, tensors.data.stale_seqlens if case.plan == "stale" else None)
    return decode(tensors, plan)


def reference(case: Case, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """What the mathematics says about the case."""
    return oracle.dense_decode(
        data.q, data.kv_cache, data.block_table, data.cache_seqlens, case.softmax_scale, case.causal
    )


def check_result(case: Case, data: Data, result: Result) -> None:
    """Raises AssertionError if the result is not the oracle's within the tolerances."""
    out, lse = reference(case, data)
    bound = compare.tolerance("dense_decode", case.dtype, case.softmax_scale)
    if result.lse is not None:
        compare.check_lse(result.lse.astype(np.float64), lse, bound)
    compare.check_out(result.out.astype(np.float64), out, bound)


def check(case: Case, backend) -> None:
    """Runs a case and compares it with the oracle."""
    data = make_data(case)
    check_result(case, data, run(case, backend, data))
