"""The stub driver, for a pool, which needs no kernels; and devices whose memory a pool may be in."""

import pytest

from stub_driver import stub


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    (folder / "logs").mkdir()
    return stub.Stub(stub.compile_stub(folder / "lib", set(stub.SINCE)), folder / "logs")


@pytest.fixture(params=["kernel", "copies"])
def uploads(request) -> dict[str, int]:
    """Settings of the stub driver with which arrays are uploaded in this way."""
    if request.param == "kernel":
        request.getfixturevalue("gpu_kernels")  # which may skip
    return {"pageable": int(request.param == "copies")}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """PyTorch's name of it."""
    if request.param == "cuda":
        request.getfixturevalue("gpu")  # which may skip
    return request.param
