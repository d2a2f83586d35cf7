"""For code that runs with the stub driver, as stub_driver/host.py."""

from ops.merge_states.calls import MergeCase
from ops.merge_states.shape_only import CUDA, merge_call
from stub_driver.host import ffi, lib, tell_status

__all__ = ["MergeCase", "merge"]


def merge(case: MergeCase | None = None, device: int = 0) -> None:
    """Merges and tells the status and the kernel."""
    status = merge_call(case or MergeCase(), (CUDA, device)).run()
    tell_status(status, ffi.string(lib.flashmla_last_kernel()).decode())
