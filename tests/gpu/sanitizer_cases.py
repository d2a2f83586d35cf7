"""Every kernel once or twice on small data, checked: a plain script for compute-sanitizer.

    compute-sanitizer --tool memcheck --error-exitcode 9 python3 tests/gpu/sanitizer_cases.py

and likewise with racecheck and synccheck. Add `--kernel-regex kns=flashmla_` to leave PyTorch's own kernels alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "bindings" / "python")]

from cases import Case  # noqa: E402 - found through the line above

LENGTHS = (200, 65, 0, 64)  # pages that are full, begun, and none


def decode_cases(processors: int) -> list[tuple[Case, str]]:
    """Cases and the dense_decode kernel that each runs."""
    found = []
    for dtype, short in (("bfloat16", "bf16"), ("float16", "fp16")):
        base = Case(dtype, num_blocks=14, max_blocks=5, lengths=LENGTHS, causal=True, given=("lse",))
        one, two = f"dense_decode_{short}_cluster1", f"dense_decode_{short}_cluster2"
        # combine gives a row to a warp when there are more than two rows a processor, else to a whole block
        many = base.but(lengths=(130,) * (2 * processors // 64 + 2), num_blocks=30)
        found += [
            (base.but(h_q=64, bad_pages=True), one),
            (base.but(h_q=16, s_q=3, plan="fresh", num_splits=1), one),
            (base.but(h_q=5, h_kv=5, s_q=2, plan="stale"), one),
            (base.but(h_q=64, lengths=(200, 3), plan="fresh", num_splits=3), one),
            (many.but(h_q=64, plan="fresh", num_splits=2), one),
            (base.but(h_q=128, lengths=(200, 65)), two),
            (base.but(h_q=40, s_q=2, plan="fresh", num_splits=1), two),
            (base.but(h_q=128, s_q=3, lengths=(130, 2), plan="fresh", num_splits=2, bad_pages=True), two),
            (many.but(h_q=128, plan="fresh", num_splits=2), two),
        ]
    return found


def main() -> None:
    import torch

    import backends
    import calls
    import flashmla
    from flashmla._cdef import ffi
    from flashmla._library import lib

    backend, why_not = backends.gpu()
    if backend is None:
        sys.exit(f"no GPU to run on: {why_not}")
    processors = torch.cuda.get_device_properties(backend.device[1]).multi_processor_count
    ran = set()
    for number, (case, kernel) in enumerate(decode_cases(processors)):
        drawn = case.but(seed=number)
        tensors = calls.Tensors(drawn, backend)
        stale = tensors.data.stale_seqlens if case.plan == "stale" else None
        plan = calls.make_plan(tensors, stale) if case.plan != "none" else None
        result = calls.decode(tensors, plan)
        found = ffi.string(lib.flashmla_last_kernel()).decode()
        assert found == kernel, f"{found} ran, {kernel} was meant"
        calls.check_result(drawn, tensors.data, result)
        ran.add(found)
        print(f"{number + 1}: {found}, {len(case.lengths)} requests, splits {case.num_splits}", flush=True)
    rows = {row["name"] for row in flashmla.info()["kernels"] if row["target"] != "cpu"}
    missing = sorted(name for name in rows - ran if name.startswith("dense_decode"))
    assert not missing, f"never ran: {missing}"
    print(f"{len(ran)} dense_decode kernels, plan and combine: right")


if __name__ == "__main__":
    main()
