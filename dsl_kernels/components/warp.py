"""What the lanes of a warp do together."""

import cutlass.cute as cute


def warp_reduce(value, op):
    """The values of all lanes joined by `op`, in every lane."""
    for lanes in (16, 8, 4, 2, 1):
        value = op(value, cute.arch.shuffle_sync_bfly(value, lanes))
    return value
