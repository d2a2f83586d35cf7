"""The one scale of all codes of a cache, a tensor of the call. It goes to the logits' factor and to that of the
results: nothing is rounded. `a`: the kernel's parameter namespace.
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


def bounded(factor):
    """A logits' factor as a normal number, because 0 * infinity is NaN: a scale that is none counts in value_factor."""
    return cute.arch.fmin(cute.arch.fmax(factor, SMALLEST), LARGEST)


@cute.jit
def value_factor(a):
    """What rows of results are multiplied with; NaN if the scale is infinite, too."""
    scale = scale_of(a)
    return scale + 0.0 * scale
