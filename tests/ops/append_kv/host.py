"""For code that runs with the stub driver, as stub_driver/host.py."""

from buffers import Layout, Pages
from gpu.kernel_rows import last_kernel
from ops.append_kv.calls import WriteCase
from ops.append_kv.shape_only import CUDA, write_call
from shape_only import moved
from stub_driver.host import tell_status

__all__ = ["Layout", "Pages", "WriteCase", "prepare_write", "run_write", "write"]


def write(case: WriteCase, operation: str = "append_kv", device: int = 0) -> None:
    """Writes and tells the status and the kernel."""
    status = write_call(case, (CUDA, device), operation).run()
    tell_status(status, last_kernel())


def prepare_write(case: WriteCase, operation: str = "append_kv"):
    """Prepares a call, tells the status, returns what was made and the call."""
    call = write_call(case, operation=operation)
    status, prepared = call.prepared()
    tell_status(status)
    return prepared, call


def run_write(made, by: int = 0, **fields) -> None:
    """Runs a prepared call with tensors `by` bytes further; tells the status and the kernel."""
    prepared, call = made
    tell_status(moved(call, by, **fields).run_prepared(prepared), last_kernel())
