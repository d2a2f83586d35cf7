"""Attention sinks: a logit for each query head that takes part in the softmax's sum and in nothing else.

`a`: the kernel's parameter namespace.
"""

import cutlass.cute as cute
from cutlass import Float32

from .schedule import element, given

LOG2_E = 1.4426950408889634


@cute.jit
def sink_of(a, head):
    """The sink of a query head, in base 2; -inf where there are none."""
    sink = -Float32.inf
    if given(a.sink):
        sink = element(a.sink, head) * LOG2_E
    return sink


@cute.jit
def share(a, head, lse2):
    """What a sink leaves of a row with this base-2 log-sum-exp, which is finite."""
    return cute.arch.rcp_approx(1.0 + cute.math.exp2(sink_of(a, head) - lse2, fastmath=True))


@cute.jit
def with_sink(lse2, sink):
    """The base-2 log-sum-exp of a row's logits and of its sink."""
    joined = lse2
    if sink != -Float32.inf:
        top = cute.arch.fmax(lse2, sink)
        both = cute.math.exp2(lse2 - top, fastmath=True) + cute.math.exp2(sink - top, fastmath=True)
        joined = top + cute.math.log2(both) if sink != Float32.inf else sink
    return joined
