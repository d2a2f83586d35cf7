"""What only a Hopper GPU can show. Skipped without one; the suites beside this folder run on it too."""

from __future__ import annotations

from pathlib import Path

import pytest

import backends

HERE = Path(__file__).parent
SECONDS = 100  # a test; one that hangs in the driver can only be ended with its process
figures: list[str] = []
# Their tensors are PyTorch's; without it the header of the run says that no GPU test can be.
collect_ignore_glob = [] if backends.has("torch") else ["test_*.py"]


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(SECONDS, method="thread"))


@pytest.fixture(scope="session", autouse=True)
def gpu() -> backends.Backend:
    """The GPU backend."""
    found, why_not = backends.gpu()
    if found is None:
        pytest.skip(why_not)
    return found


@pytest.fixture(autouse=True)
def first_device(gpu) -> None:
    """Tests take the first device for the current one; a framework may have left another when there are several."""
    import torch  # without it these tests are not collected

    torch.cuda.set_device(gpu.device[1])


@pytest.fixture
def figure(record_property):
    """Puts a measured figure (name, text) into the summary of the run."""
    return record_property


def pytest_runtest_logreport(report) -> None:
    if report.when == "call":  # parallel workers send their reports here
        figures.extend(f"figure: {name}: {value}" for name, value in report.user_properties)


def pytest_terminal_summary(terminalreporter) -> None:
    for line in figures:
        terminalreporter.write_line(line)
