"""For code that runs with the stub driver, as stub_driver/host.py."""

from buffers import Layout
from c_abi import new_plan
from gpu.kernel_rows import last_kernel
from ops.dense_decode.case import Case, Layouts, Shard
from ops.dense_decode.shape_only import STEP, decode_call, plan_call
from shape_only import CUDA, give_scratch, moved, run
from stub_driver.host import tell_status

__all__ = [
    "CUDA",
    "STEP",
    "Case",
    "Layout",
    "Layouts",
    "Shard",
    "decode",
    "moved",
    "plan",
    "prepare_decode",
    "prepare_plan",
    "run_decode",
    "run_plan",
]


def plan(case: Case = STEP, device: int = 0, **fields):
    """Makes a plan, tells the status, returns the plan."""
    made = new_plan()
    tell_status(run(plan_call(case, (CUDA, device), **fields), made))
    return made


def decode(case: Case = STEP, device: int = 0, plan=None, **fields) -> None:
    """Decodes and tells the status and the kernel."""
    status = run(decode_call(case, (CUDA, device), plan, **fields))
    tell_status(status, last_kernel())


def prepare_decode(case: Case = STEP, device: int = 0, plan=None, **fields):
    """Prepares a decode, tells the status, returns what was made and the call."""
    call = decode_call(case, (CUDA, device), plan, **fields)
    return _prepare(call), call


def run_decode(made, by: int = 0, **fields) -> None:
    """Runs a prepared decode with tensors and workspace `by` bytes further; tells the status and the kernel."""
    prepared, call = made
    tell_status(moved(call, by, **fields).run_prepared(prepared), last_kernel())


def prepare_plan(case: Case = STEP, device: int = 0, **fields):
    """As prepare_decode."""
    call = plan_call(case, (CUDA, device), **fields)
    return _prepare(call), call


def run_plan(made, by: int = 0, **fields):
    """Runs a prepared plan_decode, tells the status, returns the plan."""
    prepared, call = made
    plan = new_plan()
    tell_status(moved(call, by, **fields).run_prepared(prepared, plan))
    return plan


def _prepare(call):
    give_scratch(call)
    status, prepared = call.prepared()
    tell_status(status)
    return prepared
