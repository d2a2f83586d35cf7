"""The stub driver as fixtures, compiled once, with the exports of CUDA 12.0 or of 12.4; tests/conftest.py has them."""

from __future__ import annotations

import pytest

import build
import flashmla
from stub_driver import stub


@pytest.fixture(scope="session")
def gpu_kernels() -> None:
    """Skips where the library was built without GPU kernels."""
    if not any(kernel["target"] != "cpu" for kernel in flashmla.info()["kernels"]):
        pytest.skip("this libflashmla was built without GPU kernels (install extra [aot], run build.py lib)")


@pytest.fixture(scope="session")
def compile_stub(tmp_path_factory, gpu_kernels):  # noqa: ARG001 - which may skip
    """A stub driver that exports these functions."""

    def make(exports) -> stub.Stub:
        folder = tmp_path_factory.mktemp("driver")
        (folder / "logs").mkdir()
        return stub.Stub(stub.compile_stub(folder / "lib", set(exports)), folder / "logs")

    return make


@pytest.fixture(scope="session")
def cuda_12_0(compile_stub) -> stub.Stub:
    return compile_stub(stub.SINCE)


@pytest.fixture(scope="session")
def cuda_12_4(compile_stub) -> stub.Stub:
    return compile_stub(stub.SINCE | stub.OPTIONAL)


@pytest.fixture(scope="session")
def cpu_only_library(tmp_path_factory):
    """The library as it is built without GPU kernels."""
    return build.build_library(cpu_only=True, out=tmp_path_factory.mktemp("cpu-only"))
