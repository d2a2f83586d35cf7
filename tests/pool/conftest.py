"""The stub driver, for a pool, which needs no kernels."""

import pytest

from stub_driver import stub


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    (folder / "logs").mkdir()
    return stub.Stub(stub.compile_stub(folder / "lib", set(stub.SINCE)), folder / "logs")
