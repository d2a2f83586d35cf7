"""For code that runs with the stub driver, as stub_driver/host.py."""

from buffers import Layout
from c_abi import new_plan
from ops.dense_decode.case import Case, Layouts, Shard
from ops.dense_decode.shape_only import STEP, decode_call, plan_call
from shape_only import CUDA, run
from stub_driver.host import ffi, lib, tell_status

__all__ = ["CUDA", "STEP", "Case", "Layout", "Layouts", "Shard", "decode", "plan"]


def plan(case: Case = STEP, device: int = 0, **fields):
    """Makes a plan, tells the status, returns the plan."""
    made = new_plan()
    tell_status(run(plan_call(case, (CUDA, device), **fields), made))
    return made


def decode(case: Case = STEP, device: int = 0, plan=None, **fields) -> None:
    """Decodes and tells the status and the kernel."""
    status = run(decode_call(case, (CUDA, device), plan, **fields))
    tell_status(status, ffi.string(lib.flashmla_last_kernel()).decode())
