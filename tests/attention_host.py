"""Calls and plans of attention operations, for the `host.py` of each: code that runs with the stub driver."""

from c_abi import CCall, new_plan
from gpu.kernel_rows import last_kernel
from shape_only import give_scratch, moved, run
from stub_driver.host import tell_status


def run_call(call: CCall) -> None:
    """Runs it; tells the status and the kernel."""
    status = run(call)
    tell_status(status, last_kernel())


def run_plan_call(call: CCall):
    """Makes a plan, tells the status, returns the plan."""
    made = new_plan()
    tell_status(run(call, made))
    return made


def prepare(call: CCall):
    """Prepares a call, tells the status, returns what was made and the call."""
    give_scratch(call)
    status, prepared = call.prepared()
    tell_status(status)
    return prepared, call


def run_prepared(made, by: int = 0, **fields) -> None:
    """Runs a prepared call with tensors and scratch `by` bytes further; tells the status and the kernel."""
    prepared, call = made
    tell_status(moved(call, by, **fields).run_prepared(prepared), last_kernel())


def run_prepared_plan(made, by: int = 0, **fields):
    """The same of a plan: tells the status, returns the plan."""
    prepared, call = made
    plan = new_plan()
    tell_status(moved(call, by, **fields).run_prepared(prepared, plan))
    return plan
