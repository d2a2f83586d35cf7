"""The fold of batch-invariant calls.

A carried result (c, lc) and the next one (x, lx) become one, l their base-2 log-sum-exps:

    m = max(lc, lx);   wc = 2^(lc - m);   wx = 2^(lx - m);   s = wc + wx
    row = c * (wc / s) + x * (wx / s);   l = m + log2(s)

Wherever it is done the bits are the same: the instructions are written out, and none is fused that is not so here. A
side whose l is -inf is empty, and the result the other one, exactly: what an empty row holds counts as -0.0, which is
neutral in a sum.
"""

import cutlass.cute as cute
from cutlass import Float32

NEUTRAL = -0.0


@cute.jit
def weigh(lc, lx):
    """(Factor of c, factor of x, log-sum-exp) of a fold. NaN comes through."""
    of_c, of_x, lse = cute.arch.inline_ptx(
        "{ .reg .f32 m, c, x, s, v; max.f32 m, {$r0}, {$r1}; sub.rn.f32 c, {$r0}, m; sub.rn.f32 x, {$r1}, m;"
        " ex2.approx.ftz.f32 c, c; ex2.approx.ftz.f32 x, x; add.rn.f32 s, c, x; rcp.approx.ftz.f32 v, s;"
        " lg2.approx.ftz.f32 s, s; add.rn.f32 s, m, s; mul.rn.f32 c, c, v; mul.rn.f32 x, x, v;"
        " mov.f32 {$w0}, c; mov.f32 {$w1}, x; mov.f32 {$w2}, s; }",
        write_only_types=[Float32, Float32, Float32],
        read_only_args=[Float32(lc), Float32(lx)],
    )
    if lx == -Float32.inf:
        of_c, of_x, lse = Float32(1.0), Float32(0.0), lc
    if lc == -Float32.inf:
        of_c, of_x, lse = Float32(0.0), Float32(1.0), lx
    return of_c, of_x, lse


def folded(c, of_c, x, of_x):
    """A value of the result. Of an empty side it is NEUTRAL."""
    return cute.arch.inline_ptx(
        "{ .reg .f32 t; mul.rn.f32 t, {$r0}, {$r1}; fma.rn.f32 {$w0}, {$r2}, {$r3}, t; }",
        write_only_types=[Float32],
        read_only_args=[c, of_c, x, of_x],
    )
