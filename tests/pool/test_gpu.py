"""A pool on a GPU."""

import pytest

from pool import gpu_checks


@pytest.mark.parametrize("check", gpu_checks.CHECKS, ids=lambda check: check.__name__)
def test_on_a_gpu(gpu, check):  # noqa: ARG001 - which may skip
    if check is gpu_checks.cupy_arrays:
        pytest.importorskip("cupy")
    check()
