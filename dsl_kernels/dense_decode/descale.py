"""The one scale of all codes of a cache, a tensor of the call, and that of Q's. They go to the logits' factor, the
former to that of the results, too: nothing is rounded. `a`: the kernel's parameter namespace.
"""

import cutlass.cute as cute
from cutlass import Float32, Uint32

from dsl_kernels.core.schedule import element, given

SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of normal numbers


@cute.jit
def scale_of(a):
    """To be read when what came before in the stream is done: that may have made it."""
    return _element(a.descale_k)


@cute.jit
def scale_of_q(a):
    """That of Q's codes, where it has some."""
    return _element(a.descale_q)


@cute.jit
def _element(pointer):
    scale = Float32(1.0)
    if given(pointer):
        scale = element(pointer, 0)
    return scale


def bounded(factor):
    """A logits' factor as a normal number, because 0 * infinity is NaN: a scale that is none counts in spoiled()."""
    return cute.arch.fmin(cute.arch.fmax(factor, SMALLEST), LARGEST)


def spoiled(x, scale):
    """x, or NaN where the scale is not finite: x + 0 * scale, which no compiler makes simpler."""
    return cute.arch.inline_ptx(
        "fma.rn.f32 {$w0}, {$r1}, 0f00000000, {$r0};", write_only_types=[Float32], read_only_args=[x, scale]
    )


def sign_of_codes(scale):
    """What four codes are joined with by an exclusive or, so that they have the sign of a number too."""
    return cute.arch.inline_ptx(
        "{ .reg .b32 t; mov.b32 t, {$r0}; shr.s32 t, t, 31; and.b32 {$w0}, t, 0x80808080; }",
        write_only_types=[Uint32],
        read_only_args=[scale],
    )
