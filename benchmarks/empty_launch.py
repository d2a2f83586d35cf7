"""Host time of the driver's own launch: an empty kernel, loaded from PTX text and launched through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

PTX = b".version 6.0\n.target sm_52\n.address_size 64\n.visible .entry empty()\n{\n ret;\n}\n"
ARGUMENTS = (ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


def check(status: int) -> None:
    if status:
        raise RuntimeError(f"CUDA driver error {status}")


def calls(device: int = 0) -> tuple[Callable[[], object], Callable[[], object]]:
    """(a launch on the default stream, a call that crosses the border with as many arguments and does nothing)."""
    cuda = ctypes.CDLL("libcuda.so.1")
    handle, context, module, kernel = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    check(cuda.cuInit(0))
    check(cuda.cuDeviceGet(ctypes.byref(handle), device))
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle))  # the one of every framework
    check(cuda.cuCtxSetCurrent(context))
    check(cuda.cuModuleLoadData(ctypes.byref(module), PTX))
    check(cuda.cuModuleGetFunction(ctypes.byref(kernel), module, b"empty"))
    launch = ctypes.CFUNCTYPE(ctypes.c_int, *ARGUMENTS)(("cuLaunchKernel", cuda))
    nothing = ctypes.CFUNCTYPE(ctypes.c_int, *ARGUMENTS)(("abs", ctypes.CDLL(None)))  # looks at none but the first
    arguments = (kernel.value, 1, 1, 1, 32, 1, 1, 0, None, None, None)
    check(launch(*arguments))
    return lambda: launch(*arguments), lambda: nothing(*arguments)
