"""Small calls that launch every sparse_decode kernel, with plan and combine; see gpu/sanitizer_cases.py."""

from __future__ import annotations

import contextlib

import c_abi
import environment
import flashmla
from buffers import Pages
from gpu.kernel_rows import last_kernel, rows_of
from ops.append_kv import oracle as formats
from ops.dense_decode.oracle import D_V
from ops.sparse_decode import calls
from ops.sparse_decode.case import Cache, SparseCase
from ops.sparse_decode.shape_only import decode_call, plan_call
from shape_only import run

# Of calls with many heads, with some and with few: pairs of CTAs are for more than 64
HEADS = {"alone": (128, 64, 5), "pair": (128, 100, 65)}


def kernels() -> dict[str, tuple[str, int, tuple[int, int, int]]]:
    """The (kv_format, d_qk, heads of calls) of each row of the kernel table, by its name."""
    rows = [row["name"] for row in rows_of("sparse_decode")]
    found = {}
    for name in rows:
        _, _, d_qk_and_format = name.removesuffix("_pair").removeprefix("sparse_decode").split("_", 2)
        d_qk, _, kv_format = d_qk_and_format.partition("_")
        heads = HEADS["pair" if name.endswith("_pair") else "alone"]
        found[name] = kv_format or "bf16", int(d_qk), heads
    return found


def another(kv_format: str, d_qk: int) -> str:
    """A format of rows of as many columns."""
    return "bf16" if kv_format != "bf16" else "v32" if d_qk == 576 else "v41"


def decode_cases(kv_format: str, d_qk: int, heads: tuple[int, int, int]) -> list[tuple[SparseCase, bool]]:
    """Calls, and whether their query tokens are split."""
    many, some, few = heads
    quantised = kv_format in formats.FORMATS
    layout = Pages(gaps=(1,)) if quantised else Cache().cache_layout
    main = Cache(kv_format, num_blocks=9, page_size=53, topk=300, cache_layout=layout)
    base = SparseCase(main=main, d_qk=d_qk, batch=2, s_q=2, h_q=many, given=("lse",))
    extra = main.but(num_blocks=40, page_size=7, topk=130, lengths=(65, 129))
    found = [
        (base, True),
        (
            base.but(
                h_q=few,
                lengths=(300, 71),
                index_dtype="int64",
                sink="wild",
                out_dtype="float32",
                parted=d_qk > D_V[d_qk],
            ),
            True,
        ),
        (base.but(h_q=some, s_q=3, extra=extra, sink="some", lse_base2=True), True),
        (base.but(h_q=some, extra=extra.but(lengths=None), lengths=(0, 1), empty_lse_minus=True), True),
        (base.but(plan="stale", lengths=(300, 71), extra=extra), True),
        # Offsets of the plan give requests query tokens that they have not.
        (base.but(plan="stale", batch=3, s_q=4, cu_seqlens_q=(0, 0, 3, 4), total_q=4, lengths=(300, 7, 65)), True),
        (base.but(plan="fresh", num_splits=3, h_q=some, lengths=(300, 71)), True),
        (base.but(extra=extra.but(kv_format=another(kv_format, d_qk), cache_layout=Cache().cache_layout)), True),
        (base.but(batch_invariant=True, plan="fresh"), False),
        (base.but(s_q=1, topk=64), False),
        (base.but(topk=0, sink="some"), False),
        (base.but(outside=1.0, topk=65), False),
        (base.but(batch=3, cu_seqlens_q=(0, 2, 2, 3), total_q=4, lengths=(300, 7, 65)), True),
        # More tiles than processors, so that a block goes on to another one.
        (base.but(batch=150, topk=130, lengths=tuple(i % 131 for i in range(150))), False),
    ]
    return [(case.but(seed=seed), is_split) for seed, (case, is_split) in enumerate(found)]


def forced(name: str):
    """Else few query tokens would have no pairs, and many no others."""
    return environment.variable("FLASHMLA_FORCE_KERNEL", name)


def plan_of(case: SparseCase):
    """A plan of the case on made-up tensors, if it has one."""
    plan = None if case.plan == "none" else c_abi.new_plan()
    if plan is not None and run(plan_call(case), plan):
        raise SystemExit(c_abi.last_error())
    return plan


def check_all(backend) -> None:
    """Runs them on a GPU."""
    import torch

    for name, facts in kernels().items():
        cases = decode_cases(*facts)
        with forced(name):
            for case, _ in cases:
                calls.check(case, backend)
                assert last_kernel() == name
        print(f"{name}: {len(cases)} cases right", flush=True)
    with environment.variable("FLASHMLA_CHECK", "1"), forced("sparse_decode_bf16_576_v32_pair"):
        for case, _ in decode_cases("v32", 576, HEADS["pair"]):  # many have indices outside, which the next call tells
            with contextlib.suppress(flashmla.InvalidArgumentError):
                calls.run(case.but(route="torch"), backend)
            torch.cuda.synchronize()
            with contextlib.suppress(flashmla.InvalidArgumentError):
                flashmla.check_report()


def launch_all(tell) -> None:
    """Launches them with made-up tensors; tells the kernel of the format, the one that ran, and whether query tokens
    are split.
    """
    for name, facts in kernels().items():
        with forced(name):
            for case, is_split in decode_cases(*facts):
                if run(decode_call(case, plan=plan_of(case))):
                    raise SystemExit(c_abi.last_error())
                tell(name, last_kernel(), is_split)
    with environment.variable("FLASHMLA_CHECK", "1"):
        if run(decode_call(decode_cases("bf16", 576, HEADS["alone"])[0][0])):
            raise SystemExit(c_abi.last_error())
