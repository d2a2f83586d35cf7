"""cp.async: 4 or 16 bytes from global to shared memory, beside the thread's other work; zeros where nothing is read."""

import cutlass.cute as cute
from cutlass import Int32, Int64


@cute.jit
def copy_16(to, source, size):
    """16 bytes. to: address in shared memory; source: in global memory; size: 16, or 0: nothing is read."""
    cute.arch.inline_ptx(
        "cp.async.cg.shared.global [{$r0}], [{$r1}], 16, {$r2};",
        read_only_args=[Int32(to), Int64(source), Int32(size)],
    )


@cute.jit
def copy_4(to, source, size):
    """4 bytes; size: 4 or 0."""
    cute.arch.inline_ptx(
        "cp.async.ca.shared.global [{$r0}], [{$r1}], 4, {$r2};",
        read_only_args=[Int32(to), Int64(source), Int32(size)],
    )


def end_group():
    """What was started until now is one group."""
    cute.arch.cp_async_commit_group()


def wait_for_all():
    """Until this thread's copies have come."""
    cute.arch.cp_async_wait_group(0)
