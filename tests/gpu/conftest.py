"""What only a Hopper GPU can show. Skipped without one; the suites of the operations run on it too."""

import pytest

import backends

# Their tensors are PyTorch's; without it the header of the run says that no GPU test can be.
collect_ignore_glob = [] if backends.has("torch") else ["test_*.py"]


@pytest.fixture(autouse=True)
def needs_a_gpu(gpu) -> None:
    """Skips without one."""
