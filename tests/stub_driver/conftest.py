"""Tests with the stub driver are of the GPU backend."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def needs_gpu_kernels(gpu_kernels) -> None:
    """Skips where the library was built without them."""
