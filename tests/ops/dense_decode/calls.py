"""Makes a drawn case into a call, by the C ABI or by the package, and checks the result and everything around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import c_abi
import compare
import flashmla
import properties
from attention import Result
from buffers import COMPACT, POISON, Guarded
from ops.dense_decode import oracle
from ops.dense_decode.case import Case, Data, keys_of, make_data, queries_of


def format_number(name: str) -> int:
    return c_abi.constant(f"KV_{name.upper()}")


def plan_fields(case) -> dict[str, object]:
    """What a case says of plan_decode, but for tensors and buffer."""
    fields: dict[str, object] = {"flags": c_abi.flags(causal=case.causal, batch_invariant=case.batch_invariant)}
    fields |= {"num_splits": case.num_splits, "kv_format": format_number(case.kv_format), "window": case.window}
    if case.cu_seqlens_q is not None:
        fields["max_seqlen_q"] = case.s_q
    return fields


def decode_fields(case) -> dict[str, object]:
    """What a case says of dense_decode, but for tensors, plan and workspace."""
    fields: dict[str, object] = {
        "flags": c_abi.flags(
            causal=case.causal,
            default_scale=case.softmax_scale is None,
            lse_base2=case.lse_base2,
            empty_lse_minus=case.empty_lse_minus,
            batch_invariant=case.batch_invariant,
        ),
        "num_threads": case.num_threads,
        "kv_format": format_number(case.kv_format),
        "window": case.window,
        "compute": c_abi.constant(f"COMPUTE_{case.compute.upper()}"),
    }
    if case.softmax_scale is not None:
        fields["softmax_scale"] = case.softmax_scale
    if case.cu_seqlens_q is not None:
        fields["max_seqlen_q"] = case.s_q
    if case.shard is not None:
        fields |= {f"cp_{name}": value for name, value in case.shard._asdict().items()}
    return fields


class Tensors:
    """The input tensors of a case on a backend."""

    def __init__(self, case: Case, backend, data: Data | None = None):
        self.case, self.backend = case, backend
        self.adapter = backend.adapter(case.route)
        self.data = make_data(case) if data is None else data
        values = vars(self.data) | case.parts_of_q(self.data.q)
        self.guarded = {name: self.place(name, values[name]) for name in case.inputs}

    def place(self, name: str, values=None) -> Guarded:
        """One tensor of the case in a guarded buffer."""
        case = self.case
        layout = getattr(case.layouts, name)
        return Guarded(self.adapter, case.shapes()[name], case.dtype_of(name), layout, case.granule_of(name), values)

    def scratch(self, size: int) -> Guarded:
        """`size` bytes for a workspace or a plan."""
        return Guarded(self.adapter, (size,), "uint8", self.case.layouts.scratch, 16)

    def c_tensor(self, name: str, guarded: Guarded) -> c_abi.CTensor:
        """The DLTensor of one of the case's tensors."""
        return c_abi.CTensor.of(guarded, self.backend.device, compact=getattr(self.case.layouts, name) == COMPACT)

    def c_call(self, operation: str, **more: Guarded) -> c_abi.CCall:
        """A complete C call but for its scratch; `more` are the outputs and inputs that replace those of the case."""
        given = self.guarded | more
        if operation == "plan_decode":
            for name in ("global_seqlens", "attn_sink", "descale_q", "descale_k"):  # a plan serves any of them
                given.pop(name, None)
        tensors = {name: self.c_tensor(name, guarded) for name, guarded in given.items()}
        fields = plan_fields if operation == "plan_decode" else decode_fields
        return c_abi.CCall(operation, tensors, fields(self.case))

    def package_inputs(self) -> list:
        """The positional arguments of the package's calls."""
        return [self.guarded[name].tensor for name in self.case.inputs[:4]]

    def package_options(self, **replaced: Guarded) -> dict[str, object]:
        """The keyword arguments that all calls of the package share; `replaced`: other inputs of the same names."""
        case, guarded = self.case, self.guarded | replaced
        options: dict[str, object] = {"causal": case.causal, "batch_invariant": case.batch_invariant}
        options |= {"kv_format": case.kv_format, "window": case.window}
        options |= {"q_rope": guarded["q_rope"].tensor} if case.parted else {}
        if case.cu_seqlens_q is not None:
            options |= {"cu_seqlens_q": guarded["cu_seqlens_q"].tensor, "max_seqlen_q": case.s_q}
        return options

    def package_decode_options(self) -> dict[str, object]:
        """The keyword arguments of dense_decode alone, but for plan, outputs and workspace."""
        case = self.case
        options: dict[str, object] = {
            "softmax_scale": case.softmax_scale,
            "num_threads": case.num_threads,
            "lse_base2": case.lse_base2,
            "empty_lse": -np.inf if case.empty_lse_minus else np.inf,
            "compute": case.compute,
        }
        if case.shard is not None:
            options |= {f"cp_{name}": value for name, value in case.shard._asdict().items()}
            options["global_seqlens"] = self.guarded["global_seqlens"].tensor
        if case.sink is not None:
            options["attn_sink"] = self.guarded["attn_sink"].tensor
        for name in ("descale_q", "descale_k"):
            if getattr(case, name) is not None:
                options[name] = self.guarded[name].tensor
        if "out" not in case.given:
            options["out_dtype"] = case.out_dtype
        return options


@dataclass
class Plan:
    """A plan of either route and the buffer it lies in, if the test made that."""

    handle: object
    buffer: Guarded | None


def make_plan(tensors: Tensors, num_splits: int | None = None, **other_values) -> Plan:
    """Makes a plan for the case's call, with its number of splits or another one; `other_values` replace inputs."""
    case = tensors.case
    num_splits = case.num_splits if num_splits is None else num_splits
    other = {name: tensors.place(name, values) for name, values in other_values.items() if values is not None}
    if case.route != "c":
        inputs = [(tensors.guarded | other)[name].tensor for name in case.inputs[:4]]
        options = tensors.package_options(**other) | {"num_splits": num_splits}
        buffer = None
        if "plan_buffer" in case.given:
            buffer = tensors.scratch(flashmla.plan_decode_size(*inputs, **options))
        handle = tensors.adapter.call(flashmla.plan_decode, *inputs, **options, buffer=buffer and buffer.tensor)
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


def stale_plan(tensors: Tensors) -> Plan:
    """A plan made with other lengths, of the cache and of the queries."""
    data = tensors.data
    return make_plan(tensors, cache_seqlens=data.stale_seqlens, cu_seqlens_q=data.stale_cu_seqlens_q)


def decode(tensors: Tensors, plan: Plan | None = None) -> Result:
    """Runs dense_decode and checks that it wrote its outputs and scratch and nothing else."""
    case, adapter = tensors.case, tensors.adapter
    properties.drawn[tensors.backend.name, "valid"] += 1
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
        options = tensors.package_options() | {"plan": handle}
        workspace = None
        if "workspace" in case.given:
            workspace = tensors.scratch(flashmla.dense_decode_workspace_size(*inputs, **options))
        made_out, made_lse = adapter.call(
            flashmla.dense_decode,
            *inputs,
            **options,
            **tensors.package_decode_options(),
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
    if case.cu_seqlens_q is not None:
        free = case.owners(tensors.data.cu_seqlens_q) == 0
        for name, guarded in outputs.items():
            rows = guarded.values()[free] if name == "out" else guarded.values()[:, free]
            assert np.all(np.ascontiguousarray(rows).view(np.uint8) == POISON), f"{name}: rows of no request written"
    return without_free_rows(case, result, tensors.data)


def without_free_rows(case: Case, result: Result, data: Data) -> Result:
    """The result with zeros for the query tokens of no request, which are not written."""
    if case.cu_seqlens_q is None:
        return result
    free = case.owners(data.cu_seqlens_q) == 0
    out, lse = result.out.copy(), None if result.lse is None else result.lse.copy()
    out[free] = 0
    if lse is not None:
        lse[:, free] = 0
    return Result(out, lse)


def run(case: Case, backend, data: Data | None = None) -> Result:
    """The whole case: its plan, if it has one, and its call."""
    tensors = Tensors(case, backend, data)
    return decode(tensors, {"none": lambda _: None, "fresh": make_plan, "stale": stale_plan}[case.plan](tensors))


def reference(case: Case, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """What the mathematics says about the case; zeros for the query tokens of no request."""
    out, lse = oracle.dense_decode(
        queries_of(case, data),
        keys_of(case, data),
        data.block_table,
        data.cache_seqlens,
        case.softmax_scale,
        case.causal,
        cu_seqlens_q=data.cu_seqlens_q,
        max_seqlen_q=case.s_q,
        shard=case.shard,
        global_seqlens=data.global_seqlens,
        sink=data.attn_sink,
        window=case.window,
        lse_base2=case.lse_base2,
        empty_lse=-np.inf if case.empty_lse_minus else np.inf,
    )
    if case.cu_seqlens_q is not None:
        free = case.owners(data.cu_seqlens_q) == 0
        out[free], lse[:, free] = 0, 0
    return out, lse


def bound_of(case: Case) -> compare.Tolerance:
    kind = case.dtype
    if case.kv_format == "fp8":
        rounds = case.compute == "fp8" and case.q_dtype and case.page_size % 64 == 0 and case.d_v > 128
        kind = "fp8 products" if rounds else f"{case.dtype}, codes"
    return sunk(case, compare.tolerance("dense_decode", kind, case.softmax_scale, case.d_qk))


def sunk(case: Case, bound: compare.Tolerance) -> compare.Tolerance:
    """The bound, with what sinks add to it where the case has some."""
    return bound.sunk() if case.sink is not None else bound


def check_result(case: Case, data: Data, result: Result, bound: compare.Tolerance | None = None) -> None:
    """Raises AssertionError if the result is not the oracle's within the tolerances, or these."""
    out, lse = reference(case, data)
    bound = sunk(case, bound or bound_of(case))
    if result.lse is not None:
        natural = np.log(2) if case.lse_base2 else 1.0
        compare.check_lse(natural * result.lse.astype(np.float64), natural * lse, bound)
    compare.check_out(result.out.astype(np.float64), out, bound)


def check(case: Case, backend) -> None:
    """Runs a case and compares it with the oracle."""
    data = make_data(case)
    check_result(case, data, run(case, backend, data))
