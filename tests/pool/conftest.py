"""The stub driver, for a pool, which needs no kernels; and devices whose memory a pool may be in."""

import pytest

from stub_driver import stub


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    (folder / "logs").mkdir()
    return stub.Stub(stub.compile_stub(folder / "lib", set(stub.SINCE)), folder / "logs")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """PyTorch's name of it."""
    if request.param == "cuda":
        request.getfixturevalue("gpu")  # which may skip
    return request.param
