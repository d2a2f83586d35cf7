"""A pool with a fault planted in a copy of its sources must fail the random calls."""

from __future__ import annotations

import pytest

import build
from planted_faults import edited_copies
from pool.faults import FAULTS
from pool.test_pool_streams import walks


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_caught(driver, fault):
    folder = build.BUILD / "faulty" / f"pool-{fault.name.replace(' ', '-')}"
    library = build.build_library(cpu_only=True, debug=True, out=folder, edited=edited_copies(fault.edits, folder))
    with pytest.raises(AssertionError):
        driver.run(walks(8000), flashmla_library=library, lazy=fault.lazy)
