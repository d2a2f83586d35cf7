"""Threads: numbers that are read on the spot, and what the lanes of a warp do together."""

import cutlass.cute as cute
from cutlass import Int32


@cute.jit
def opaque(x):
    """The same value, but work done on it before cannot be shared: what hangs on it is not kept in registers."""
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Int32], read_only_args=[Int32(x)])


@cute.jit
def behind(x, y):
    """The same value as x, but not known before y is: what hangs on it is not worked out in advance."""
    return cute.arch.inline_ptx(
        "mov.b32 {$w0}, {$r0}; // {$r1}", write_only_types=[Int32], read_only_args=[Int32(x), Int32(y)]
    )


@cute.jit
def lane_now(y):
    """Number of the lane, not read before y is known."""
    x, _, _ = cute.arch.thread_idx()
    return behind(x, y) & 31


@cute.jit
def thread_now():
    """Thread number in the warpgroup, read on the spot."""
    x, _, _ = cute.arch.thread_idx()
    return opaque(x) & 127


def warp_reduce(value, op):
    """The values of all lanes joined by `op`, in every lane."""
    for lanes in (16, 8, 4, 2, 1):
        value = op(value, cute.arch.shuffle_sync_bfly(value, lanes))
    return value
