"""Every kernel of the table on small data, checked: a plain script for compute-sanitizer.

    compute-sanitizer --tool memcheck --error-exitcode 9 python3 tests/gpu/sanitizer_cases.py

and likewise with racecheck and synccheck. Add `--kernel-regex kns=flashmla_` to leave PyTorch's own kernels alone.
tests/stub_driver/test_sanitizer_cases.py shows without a GPU that these calls launch every row of the table.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "bindings" / "python")]

import oracle  # noqa: E402 - found through the line above
from cases import Case  # noqa: E402
from merging import MergeCase  # noqa: E402
from oracle import Shard  # noqa: E402

FORCE = "FLASHMLA_FORCE_KERNEL"
LENGTHS = (200, 65, 0, 64)  # pages that are full, begun, and none


def decode_cases(processors: int) -> list[Case]:
    """Calls whose requests are split, but for the one with num_splits 1. Each dense_decode kernel fits some of them."""
    found = []
    for dtype in ("bfloat16", "float16"):
        for d_qk in oracle.D_V:
            plain = Case(dtype, d_qk=d_qk, num_blocks=14, max_blocks=5, lengths=LENGTHS, causal=True, given=("lse",))
            small = plain.but(page_size=16, num_blocks=60, max_blocks=20)
            # combine gives a row to a warp when there are more rows than processors, else to a whole block
            many = plain.but(lengths=(130,) * (2 * processors // 64 + 2), num_blocks=30)
            for h_q, s_q in ((16, 3), (128, 1)):
                found += [
                    plain.but(h_q=h_q, s_q=s_q, bad_pages=True),
                    plain.but(h_q=h_q, s_q=s_q, plan="fresh", num_splits=1),
                    small.but(h_q=h_q, s_q=s_q, plan="fresh", num_splits=3, out_dtype="float32"),
                    small.but(h_q=h_q, s_q=s_q, page_size=1, max_blocks=200, num_blocks=400, plan="stale"),
                    plain.but(h_q=h_q, s_q=s_q, page_size=128, shard=Shard(1, 2, 16), global_seqlens=(500, 90, 3, 0)),
                    plain.but(h_q=h_q, s_q=s_q, cu_seqlens_q=(0, s_q, s_q, s_q + 1, s_q + 2), total_q=s_q + 3),
                    plain.but(h_q=h_q, s_q=s_q, lengths=(300, 3, 320), batch_invariant=True, lse_base2=True),
                    many.but(h_q=h_q, s_q=s_q, plan="fresh", num_splits=2),
                ]
            found.append(plain.but(h_q=5, h_kv=5, s_q=2, plan="stale"))
    return [case.but(seed=seed) for seed, case in enumerate(found)]


def merge_cases() -> list[MergeCase]:
    """Calls of merge_states, listed and stacked."""
    base = MergeCase(num_states=3, batch=2, s_q=2, h_q=20, given=("out", "lse"))
    return [
        base.but(dtype=dtype, stacked=stacked, d_v=d_v)
        for dtype in ("bfloat16", "float16", "float32")
        for stacked in (False, True)
        for d_v in (512, 256, 24)
    ]


def rows_of(operation: str) -> list[dict]:
    """The GPU rows of the kernel table that do the operation."""
    import flashmla

    rows = [row for row in flashmla.info()["kernels"] if row["target"] != "cpu"]
    return [row for row in rows if row["operation"] == operation]


def run_decode(row: dict, case: Case, backend) -> bool:
    """Whether the row's kernel does the case; then its result is right."""
    import calls
    import flashmla

    os.environ[FORCE] = row["name"]
    try:
        routed = case.but(route="torch", given=("out", "lse"))
        data = calls.make_data(routed)
        result = calls.run(routed, backend, data)
    except flashmla.UnsupportedError as refusal:
        if row["name"] in str(refusal):
            return False
        raise
    finally:
        del os.environ[FORCE]
    found = last_kernel()
    assert found == row["name"], f"{found} ran, {row['name']} was forced"
    calls.check_result(routed, data, result)
    return True


def last_kernel() -> str:
    from flashmla._cdef import ffi
    from flashmla._library import lib

    return ffi.string(lib.flashmla_last_kernel()).decode()


def main() -> None:
    import torch

    import backends
    import merging

    backend, why_not = backends.gpu()
    if backend is None:
        sys.exit(f"no GPU to run on: {why_not}")
    processors = torch.cuda.get_device_properties(backend.device[1]).multi_processor_count
    cases = decode_cases(processors)
    for row in rows_of("dense_decode"):
        done = [case for case in cases if case.dtype == row["dtype"] and run_decode(row, case, backend)]
        assert any(case.num_splits > 1 for case in done), f"{row['name']}: no case with splits fits it"
        print(f"{row['name']}: {len(done)} cases right", flush=True)
    merged = set()
    for case in merge_cases():
        merging.check(case, backend)
        merged.add(last_kernel())
    missing = {row["name"] for row in rows_of("merge_states")} - merged
    assert not missing, f"never ran: {sorted(missing)}"
    print(f"{len(merged)} merge_states kernels, plan and combine: right")


if __name__ == "__main__":
    main()
