"""A pool whose arrays are uploaded, which launches the kernel for that; see gpu/sanitizer_cases.py."""

from __future__ import annotations

from pool import gpu_checks


def check_all(backend) -> None:
    """Runs it on a GPU."""
    del backend
    gpu_checks.uploads_of_many_pieces()


def launch_all(tell) -> None:
    """Launches it in a process with the stub driver."""
    from pool.stub_memory import StubMemory

    del tell
    gpu_checks.uploads_of_many_pieces(StubMemory())
