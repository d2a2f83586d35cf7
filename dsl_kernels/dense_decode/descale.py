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
    """A logits' factor as a normal number, because 0 * infinity is NaN: a scale that is none counts in spoiled()."""
    return cute.arch.fmin(cute.arch.fmax(factor, SMALLEST), LARGEST)


def spoiled(x, scale):
    """x, or NaN where the scale is not finite: x + 0 * scale, which no compiler makes simpler."""
    return cute.arch.inline_ptx(
        "fma.rn.f32 {$w0}, {$r1}, 0f00000000, {$r0};", write_only_types=[Float32], read_only_args=[x, scale]
    )
