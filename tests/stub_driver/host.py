"""What the code of a test has in the process with the stub driver. Tensors are made up: nothing may look into them."""

from __future__ import annotations

import ctypes
import json
import sys

import c_abi
from buffers import Layout
from c_abi import last_error, new_plan
from cases import Case, Layouts, Shard
from flashmla._cdef import ffi
from flashmla._library import lib
from made_up import CUDA, STEP, decode_call, merge_call, plan_call, run
from merging import MergeCase

driver = ctypes.CDLL("libcuda.so.1")

__all__ = ["CUDA", "STEP", "Case", "Layout", "Layouts", "c_abi", "decode", "driver", "ffi", "lib", "plan", "tell"]
__all__ += ["MergeCase", "Shard", "enter", "fail", "last_error", "merge"]


def tell(*values) -> None:
    """A line that the test reads."""
    sys.stdout.write(json.dumps(values) + "\n")  # one write, since threads tell too


def tell_status(status: int, *more) -> None:
    """The status, the sentence if it is a failure, and how many contexts this thread has left pushed."""
    tell(status, last_error() if status else "", driver.stub_depth(), *more)


def plan(case: Case = STEP, device: int = 0, **fields):
    """Makes a plan, tells the status, returns the plan."""
    made = new_plan()
    tell_status(run(plan_call(case, (CUDA, device), **fields), made))
    return made


def decode(case: Case = STEP, device: int = 0, plan=None, **fields) -> None:
    """Decodes and tells the status and the kernel."""
    status = run(decode_call(case, (CUDA, device), plan, **fields))
    tell_status(status, ffi.string(lib.flashmla_last_kernel()).decode())


def merge(case: MergeCase | None = None, device: int = 0) -> None:
    """Merges and tells the status and the kernel."""
    status = merge_call(case or MergeCase(), (CUDA, device)).run()
    tell_status(status, ffi.string(lib.flashmla_last_kernel()).decode())


def enter(device: int) -> None:
    """Makes a context of the device current, as an application would."""
    context = ctypes.c_void_p()
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert driver.cuCtxPushCurrent_v2(context) == 0


def fail(name: str, code: int = 999, after: int = 0) -> None:
    """The next call of this driver function on this thread fails, or the one `after` so many that work."""
    driver.stub_fail(name.encode(), code, after)
