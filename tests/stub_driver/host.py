"""What the code of a test has in the process with the stub driver. Operations add the names of their
host.py. Tensors are made up: nothing may look into them.
"""

from __future__ import annotations

import ctypes
import json
import sys

import c_abi
from c_abi import last_error
from flashmla._cdef import ffi
from flashmla._library import lib

driver = ctypes.CDLL("libcuda.so.1")

__all__ = ["c_abi", "driver", "enter", "fail", "ffi", "last_error", "lib", "tell", "tell_status"]


def tell(*values) -> None:
    """A line that the test reads."""
    sys.stdout.write(json.dumps(values) + "\n")  # one write, since threads tell too


def tell_status(status: int, *more) -> None:
    """The status, the sentence if it is a failure, and how many contexts this thread has left pushed."""
    tell(status, last_error() if status else "", driver.stub_depth(), *more)


def enter(device: int) -> None:
    """Makes a context of the device current, as an application would."""
    context = ctypes.c_void_p()
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert driver.cuCtxPushCurrent_v2(context) == 0


def fail(name: str, code: int = 999, after: int = 0) -> None:
    """The next call of this driver function on this thread fails, or the one `after` so many that work."""
    driver.stub_fail(name.encode(), code, after)
