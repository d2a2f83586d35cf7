"""Every kernel of the table on small data, checked: a plain script for compute-sanitizer.

    compute-sanitizer --tool memcheck --error-exitcode 9 python3 tests/gpu/sanitizer_cases.py

and likewise with racecheck and synccheck. Add `--kernel-regex kns=flashmla_` to leave PyTorch's own kernels alone.
Each operation has its calls in ops/<operation>/sanitizer_cases.py, pools have theirs in pool/sanitizer_cases.py;
tests/stub_driver/test_sanitizer_cases.py shows without a GPU that they launch every row of the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "bindings" / "python")]


def main() -> None:
    import backends
    import operations
    from pool import sanitizer_cases as of_pools

    backend, why_not = backends.gpu()
    if backend is None:
        sys.exit(f"no GPU to run on: {why_not}")
    for name, module in {**operations.modules("sanitizer_cases"), "pool": of_pools}.items():
        module.check_all(backend)
        print(f"{name}: right", flush=True)


if __name__ == "__main__":
    main()
