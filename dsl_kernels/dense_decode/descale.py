"""The one scale of all codes of a cache, a tensor of the call. Its size goes to the logits' factor and to that of the
results, its sign to the codes (unscaled.py): nothing is rounded. `a`: the kernel's parameter namespace.
"""

import cutlass.cute as cute
from cutlass import Float32

from dsl_kernels.core.schedule import element, given

SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of normal numbers


@cute.jit
def scale_of(a):
    """To be read when what came before in the stream is done: that may have made it."""
    scale = Float32(1.0)
    if given(a.descale_k):
        scale = element(a.descale_k, 0)
    return scale


@cute.jit
def size_of(a):
    return cute.arch.inline_ptx("abs.f32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[scale_of(a)])


@cute.jit
def logit_factor(a):
    """Normal and finite, because 0 * infinity would be NaN: a scale that is not counts in value_factor."""
    return cute.arch.fmin(cute.arch.fmax(a.scale_log2 * size_of(a), SMALLEST), LARGEST)


@cute.jit
def value_factor(a):
    """What rows of results are multiplied with; NaN if the scale is infinite, too."""
    size = size_of(a)
    return size + 0.0 * size
