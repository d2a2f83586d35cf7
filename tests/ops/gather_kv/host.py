"""For code that runs with the stub driver, as stub_driver/host.py."""

from buffers import Layout, Pages
from gpu.kernel_rows import last_kernel
from ops.gather_kv.calls import ReadCase
from ops.gather_kv.shape_only import CUDA, read_call
from shape_only import moved
from stub_driver.host import tell_status

__all__ = ["Layout", "Pages", "ReadCase", "prepare_read", "read", "run_read"]


def read(case: ReadCase, operation: str = "gather_kv", device: int = 0) -> None:
    """Reads and tells the status and the kernel."""
    status = read_call(case, (CUDA, device), operation).run()
    tell_status(status, last_kernel())


def prepare_read(case: ReadCase, operation: str = "gather_kv"):
    """Prepares a call, tells the status, returns what was made and the call."""
    call = read_call(case, operation=operation)
    status, prepared = call.prepared()
    tell_status(status)
    return prepared, call


def run_read(made, by: int = 0, **fields) -> None:
    """Runs a prepared call with tensors `by` bytes further; tells the status and the kernel."""
    prepared, call = made
    tell_status(moved(call, by, **fields).run_prepared(prepared), last_kernel())
