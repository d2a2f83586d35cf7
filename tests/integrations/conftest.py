"""Models here are small."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Threads of several test workers would fight for cores over small products."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
