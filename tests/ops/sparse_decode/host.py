"""For code that runs with the stub driver, as stub_driver/host.py."""

from buffers import Layout, Pages
from c_abi import new_plan
from gpu.kernel_rows import last_kernel
from ops.sparse_decode.case import Cache, SparseCase, SparseLayouts
from ops.sparse_decode.shape_only import decode_call, plan_call
from shape_only import CUDA, give_scratch, moved, run
from stub_driver.host import tell_status

__all__ = [
    "Cache",
    "Layout",
    "Pages",
    "SparseCase",
    "SparseLayouts",
    "plan_sparse",
    "prepare_plan_sparse",
    "prepare_sparse",
    "run_plan_sparse",
    "run_sparse",
    "sparse_decode",
]


def plan_sparse(case: SparseCase, device: int = 0, **fields):
    """Makes a plan, tells the status, returns the plan."""
    made = new_plan()
    tell_status(run(plan_call(case, (CUDA, device), **fields), made))
    return made


def sparse_decode(case: SparseCase, device: int = 0, **fields) -> None:
    """Decodes and tells the status and the kernel."""
    status = run(decode_call(case, (CUDA, device), **fields))
    tell_status(status, last_kernel())


def prepare_sparse(case: SparseCase, **fields):
    """Prepares a call, tells the status, returns what was made and the call."""
    call = decode_call(case, **fields)
    return _prepare(call), call


def run_sparse(made, by: int = 0, **fields) -> None:
    """Runs a prepared call with tensors and workspace `by` bytes further; tells the status and the kernel."""
    prepared, call = made
    tell_status(moved(call, by, **fields).run_prepared(prepared), last_kernel())


def prepare_plan_sparse(case: SparseCase, **fields):
    """As prepare_sparse, of plan_sparse_decode."""
    call = plan_call(case, **fields)
    return _prepare(call), call


def run_plan_sparse(made, by: int = 0, **fields):
    """Runs a prepared plan_sparse_decode, tells the status, returns the plan."""
    prepared, call = made
    plan = new_plan()
    tell_status(moved(call, by, **fields).run_prepared(prepared, plan))
    return plan


def _prepare(call):
    give_scratch(call)
    status, prepared = call.prepared()
    tell_status(status)
    return prepared
