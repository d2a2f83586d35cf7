"""Small calls that launch every dense_decode kernel, with combine and plan; see gpu/sanitizer_cases.py."""

from __future__ import annotations

import contextlib

import c_abi
import environment
import flashmla
from buffers import Pages
from gpu.kernel_rows import FORCE, last_kernel, rows_of
from ops.append_kv import oracle as formats
from ops.dense_decode import calls
from ops.dense_decode.case import OF_WIDER, ON_GPUS, Case, Layouts, make_data
from ops.dense_decode.oracle import D_V, Shard
from ops.dense_decode.shape_only import decode_call, plan_call
from schedule import hopper
from shape_only import run

LENGTHS = (200, 65, 0, 64)  # pages that are full, begun, and none
LONGEST_PIECE = 64 * hopper(132).piece_units  # the first, in tokens


def decode_cases(processors: int) -> list[Case]:
    """Calls whose requests are split, but for the one with num_splits 1. Each dense_decode kernel fits some of them."""
    found = []
    for dtype in ("bfloat16", "float16"):
        for d_qk in ON_GPUS:
            parted = d_qk > D_V[d_qk]
            plain = Case(dtype, d_qk=d_qk, num_blocks=14, max_blocks=5, lengths=LENGTHS, causal=True, given=("lse",))
            small = plain.but(page_size=16, num_blocks=60, max_blocks=20)
            # combine gives a row to a warp when there are more rows than processors, else to a whole block
            many = plain.but(lengths=(130,) * (2 * processors // 64 + 2), num_blocks=30)
            for h_q, s_q in ((16, 3), (128, 1)):
                found += [
                    plain.but(h_q=h_q, s_q=s_q, bad_pages=True, parted=parted),
                    plain.but(h_q=h_q, s_q=s_q, plan="fresh", num_splits=1),
                    small.but(h_q=h_q, s_q=s_q, plan="fresh", num_splits=3, out_dtype="float32", parted=parted),
                    small.but(h_q=h_q, s_q=s_q, page_size=1, max_blocks=200, num_blocks=400, plan="stale"),
                    small.but(h_q=h_q, s_q=s_q, page_size=48, max_blocks=7, num_blocks=20, bad_pages=True),
                    plain.but(h_q=h_q, s_q=s_q, page_size=128, shard=Shard(1, 2, 16), global_seqlens=(500, 90, 3, 0)),
                    plain.but(h_q=h_q, s_q=s_q, cu_seqlens_q=(0, s_q, s_q, s_q + 1, s_q + 2), total_q=s_q + 3),
                    *batch_invariant(plain.but(h_q=h_q, s_q=s_q), small),
                    many.but(h_q=h_q, s_q=s_q, plan="fresh", num_splits=2),
                ]
            found.append(plain.but(h_q=5, h_kv=5, s_q=2, plan="stale"))
    columns = {(name, fmt.of(d_qk, None).columns) for name, fmt in formats.FORMATS.items() for d_qk in ON_GPUS}
    found += [case for name, d_qk in sorted(columns) for case in quantised(name, d_qk)]
    codes = {"q_dtype": "uint8", "descale_q": 0.01}
    numbers = [case for case in found if case.kv_format == "fp8"]
    found += [case.but(**codes) for case in numbers if case.s_q > 1]
    found += [case.but(compute="fp8", **codes) for case in numbers if case.page_size % 64 == 0]
    return [case.but(seed=seed) for seed, case in enumerate(found)]


def quantised(kv_format: str, d_qk: int) -> list[Case]:
    """Calls on caches of a format."""
    plain = Case(
        kv_format=kv_format, d_qk=d_qk, layouts=Layouts(kv_cache=Pages(gaps=(1,))),
        num_blocks=14, max_blocks=5, lengths=LENGTHS, causal=True, given=("lse",),
    )  # fmt: skip
    return [
        plain.but(h_q=16, s_q=3, bad_pages=True, parted=d_qk > D_V[d_qk]),
        plain.but(h_q=128, plan="fresh", num_splits=1),
        plain.but(h_q=128, s_q=2, page_size=16, num_blocks=60, max_blocks=20, plan="fresh", num_splits=3),
        plain.but(h_q=64, page_size=1, max_blocks=200, num_blocks=400, plan="stale", out_dtype="float32"),
        plain.but(h_q=64, plan="fresh", num_splits=2, window=100),
        plain.but(h_q=5, s_q=4, page_size=128, shard=Shard(1, 2, 16), global_seqlens=(500, 90, 3, 0)),
    ]


def is_split(case: Case) -> bool:
    return case.num_splits > 1 or (case.batch_invariant and case.capacity > LONGEST_PIECE)


def batch_invariant(plain: Case, small: Case) -> list[Case]:
    """Of requests with several pieces, some of which are cut; of a fixed and of any page size."""
    plain = plain.but(batch_invariant=True)
    long = {"lengths": (4500, 3, 2100), "plan": "fresh"}
    return [
        plain.but(lengths=(300, 3, 320), lse_base2=True),
        plain.but(max_blocks=72, num_blocks=110, **long),
        plain.but(page_size=small.page_size, max_blocks=290, num_blocks=430, out_dtype="float32", **long),
    ]


def fields_of(row: dict) -> dict:
    """Fields of the cases that a kernel could do, so far as its name says."""
    shape, _, marks = row["name"].partition("_cluster")
    marks = marks.split("_")[1:]
    kv_format = "_".join(mark for mark in marks if mark not in {"gather", "pages", "invariant", "qgmma"}) or "bf16"
    d_qk = int(shape.rpartition("_")[2])
    compute = "fp8" if "qgmma" in marks else "default"
    return {
        "dtype": row["dtype"], "d_qk": d_qk, "kv_format": kv_format, "batch_invariant": "invariant" in marks,
        "compute": compute,
    }  # fmt: skip


def geometries_of(row: dict) -> list[int]:
    """d_qk of the calls that a kernel could do."""
    own = fields_of(row)["d_qk"]
    return [d_qk for d_qk in ON_GPUS if OF_WIDER.get(d_qk, d_qk) == own]


def may_fit(row: dict, case: Case) -> bool:
    """Whether a kernel could do a case: data of cases take time to make."""
    fields = fields_of(row)
    del fields["d_qk"]  # that of the kernel
    return case.d_qk in geometries_of(row) and all(getattr(case, field) == value for field, value in fields.items())


def run_decode(row: dict, case: Case, backend) -> bool:
    """Whether the row's kernel does the case; then its result is right."""
    try:
        routed = case.but(route="torch", given=("out", "lse"))
        data = make_data(routed)
        with environment.variable(FORCE, row["name"]):
            result = calls.run(routed, backend, data)
    except flashmla.UnsupportedError as refusal:
        if row["name"] in str(refusal):
            return False
        raise
    found = last_kernel()
    assert found == row["name"], f"{found} ran, {row['name']} was forced"
    calls.check_result(routed, data, result)
    return True


def check_all(backend) -> None:
    """Runs them on a GPU."""
    import torch

    cases = decode_cases(torch.cuda.get_device_properties(backend.device[1]).multi_processor_count)
    for row in rows_of("dense_decode"):
        done = [case for case in cases if may_fit(row, case) and run_decode(row, case, backend)]
        assert any(is_split(case) for case in done), f"{row['name']}: no case with splits fits it"
        print(f"{row['name']}: {len(done)} cases right", flush=True)
    with environment.variable("FLASHMLA_CHECK", "1"):
        for case in cases[:8]:  # some have bad pages, which the next call tells
            with contextlib.suppress(flashmla.InvalidArgumentError):
                calls.run(case.but(route="torch"), backend)
            torch.cuda.synchronize()
            with contextlib.suppress(flashmla.InvalidArgumentError):
                flashmla.check_report()


def launch_all(tell) -> None:
    """Launches them with made-up tensors; tells the kernel that was forced, the one that ran, and whether requests are
    split.
    """
    for row in rows_of("dense_decode"):
        with environment.variable(FORCE, row["name"]):
            launch(row, tell)
    with environment.variable("FLASHMLA_CHECK", "1"):
        if run(decode_call(decode_cases(132)[0])):
            raise SystemExit(c_abi.last_error())


def launch(row: dict, tell) -> None:
    """Those that the row's kernel, which is forced, does."""
    for case in decode_cases(132):
        if not may_fit(row, case):
            continue
        planned = c_abi.new_plan() if case.plan != "none" else None
        if planned is not None and run(plan_call(case), planned):
            continue
        status = run(decode_call(case, plan=planned))
        if status == 0:
            tell(row["name"], last_kernel(), is_split(case))
        elif status != c_abi.constant("ERROR_UNSUPPORTED"):
            raise SystemExit(c_abi.last_error())
