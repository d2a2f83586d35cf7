"""For code that runs with the stub driver, as stub_driver/host.py."""

from gpu.kernel_rows import last_kernel
from ops.merge_states.calls import MergeCase
from ops.merge_states.shape_only import CUDA, merge_call
from shape_only import moved
from stub_driver.host import tell_status

__all__ = ["MergeCase", "merge", "prepare_merge", "run_merge"]


def merge(case: MergeCase | None = None, device: int = 0) -> None:
    """Merges and tells the status and the kernel."""
    status = merge_call(case or MergeCase(), (CUDA, device)).run()
    tell_status(status, last_kernel())


def prepare_merge(case: MergeCase, device: int = 0):
    """Prepares a merge, tells the status, returns what was made and the call."""
    call = merge_call(case, (CUDA, device))
    status, prepared = call.prepared()
    tell_status(status)
    return prepared, call


def run_merge(made, by: int = 0, **fields) -> None:
    """Runs a prepared merge with tensors `by` bytes further; tells the status and the kernel."""
    prepared, call = made
    tell_status(moved(call, by, **fields).run_prepared(prepared), last_kernel())
