"""Backends, hypothesis profiles and what the header says about them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import hypothesis
import pytest

# Set before NumPy is loaded: the products of the oracle are small, and threads of several test workers fight for cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import backends
import environment
import isas
from stub_driver.fixtures import compile_stub, cpu_only_library, cuda_12_0, cuda_12_4, gpu_kernels  # noqa: F401
from ways_of_calls import framework, only_fast  # noqa: F401

with contextlib.suppress(ImportError):  # the kernel record is optional
    from benchmarks import digest as kernel_digest

# max_examples is the number of calls of the main property; tests of relations draw a share of it (share()).
COMMON = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("dev", max_examples=50, **COMMON)
hypothesis.settings.register_profile("ci", max_examples=500, derandomize=True, database=None, print_blob=True, **COMMON)
hypothesis.settings.register_profile("nightly", max_examples=10_000, print_blob=True, **COMMON)
hypothesis.settings.register_profile(
    "gpu", max_examples=1000, derandomize=True, database=None, print_blob=True, **COMMON
)
# For the subprocesses of test_planted_faults.py (search: a fault ends it) and of others (find): finding is enough,
# shrinking costs time.
for profile, examples in (("find", 100), ("search", 500)):
    hypothesis.settings.register_profile(
        profile,
        max_examples=examples,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=[hypothesis.Phase.generate],
        **COMMON,
    )
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "dev")
hypothesis.settings.load_profile(PROFILE)


environment.follow_monkeypatch()

GPU_SECONDS = 100  # a test; one that hangs in the driver can only be ended with its process
figures: list[str] = []
# What failed is appended to this file at once, for suites that may be stopped before their summary.
FAILURES = os.environ.get("FLASHMLA_TEST_FAILURES")


@pytest.fixture(scope="session", params=list(backends.available()))
def backend(request) -> backends.Backend:
    """Every backend that can run here; the header says why one cannot."""
    return backends.available()[request.param]


@pytest.fixture
def gpu() -> backends.Backend:
    """The GPU backend. Its device is the current one; a framework may have left another when there are several."""
    found, why_not = backends.gpu()
    if found is None:
        pytest.skip(why_not)
    import torch  # without it there is no GPU backend

    torch.cuda.set_device(found.device[1])
    return found


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if "gpu" in item.fixturenames:
            item.add_marker(pytest.mark.gpu)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(GPU_SECONDS, method="thread"))


@pytest.fixture
def figure(record_property):
    """Puts a measured figure (name, text) into the summary of the run."""
    return record_property


def pytest_runtest_logreport(report) -> None:
    if report.when == "call":  # parallel workers send their reports here
        figures.extend(f"figure: {name}: {value}" for name, value in report.user_properties)
    if FAILURES and report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(FAILURES).open("a") as file:
            file.write(f"{report.nodeid}\n{report.longreprtext}\n\n")


def pytest_report_header() -> list[str]:
    """Which backends run and why another does not; which examples are drawn; whether the kernel record is current."""
    import flashmla
    from aarch64 import emulated

    facts = flashmla.info()
    gpu, text = backends.gpu()
    lacking = f" (not run, for want of them: {', '.join(isas.missing())})" if isas.missing() else ""
    lines = [
        f"flashmla: {facts['library_path']}",
        f"backend cpu: {facts['cpu_isa']}{lacking}, tensors of {', '.join(backends.cpu().adapters)}",
        f"backend gpu: {text}" if gpu else f"backend gpu: not run: {text}",
        f"AArch64: {emulated.why_not() or 'C tests and some calls, emulated'}",
        f"hypothesis profile: {PROFILE}, {hypothesis.settings().max_examples} examples of the main property",
    ]
    with contextlib.suppress(NameError):
        lines.append(kernel_digest.header_line())
    return lines


def pytest_sessionfinish(session) -> None:
    """A worker of pytest-xdist hands its count over with its last words."""
    import properties

    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["calls_drawn"] = [(*key, count) for key, count in properties.drawn.items()]


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's: a worker is done, or died without a count
def pytest_testnodedown(node) -> None:
    """Adds a worker's count to that of this process."""
    import properties

    for name, kind, count in getattr(node, "workeroutput", {}).get("calls_drawn", []):
        properties.drawn[name, kind] += count


def pytest_terminal_summary(terminalreporter) -> None:
    """How many calls were drawn, by all workers together."""
    import properties

    counts = [f"{name}: {kind} {count}" for (name, kind), count in sorted(properties.drawn.items())]
    if counts:
        terminalreporter.write_line(f"calls drawn: {', '.join(counts)}")
    for line in figures:
        terminalreporter.write_line(line)
