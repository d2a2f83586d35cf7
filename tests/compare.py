"""When a result is right: the comparison of attention results, with the bounds of ops/<operation>/bounds.py.

The norm and lse bounds are the accuracy the library promises, with what a logit's magnitude adds. A single wrong row
drowns in the norm of a large output, so each row and each element is bounded as well. FlashMLA's own tests bound
elements by 2.01 / 128 relative or 1e-3 absolute on N(0, 1) / 10 data; here the absolute part follows the row, so it
holds for any data.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """Bounds on a result against float64 of the same inputs."""

    norm: float  # ||out - ref|| / ||ref|| over the whole output; a row may have twice that
    element_relative: float  # of an element, or ...
    element_of_row: float  # ... this part of the root mean square of its row, or ...
    element_absolute: float  # ... this: the dtype's spacing at zero
    lse_absolute: float = 1e-5
    lse_relative: float = 1e-6
    logit: float = 1e-5  # error of a logit by its magnitude: float32 arithmetic

    def widened(self, factor: float) -> Tolerance:
        """Bounds for a problem that carries `factor` times the rounding error."""
        return Tolerance(*(factor * bound for bound in vars(self).values()))

    def at(self, magnitude: float) -> Tolerance:
        """The bounds for logits of a magnitude: their own float32 rounding errors grow with it."""
        more = self.logit * (magnitude - 1)
        factor = self.element_of_row / self.norm
        return replace(
            self,
            norm=self.norm + more,
            element_of_row=self.element_of_row + factor * more,
            lse_absolute=self.lse_absolute + more,
        )

    def sunk(self) -> Tolerance:
        """The bounds where attention sinks take part: what one leaves of a row may be subnormal, which counts as 0."""
        return replace(self, element_absolute=max(self.element_absolute, SUBNORMAL_SHARE))

    def on(self, backend: str) -> Tolerance:
        """The bounds on a backend, "cpu" or "gpu"."""
        return replace(self, lse_relative=GPU_LSE_RELATIVE) if backend == "gpu" else self


SUBNORMAL_SHARE = 2.0**-126 * 2**20  # of sums over 2^14 tokens, whose latents are below 2^6
# Tensor cores do not round the sums of float32 products, they cut them off, so errors add up instead of cancelling: in
# each of the d_qk / 16 steps of a logit up to 2^-23 of the sum so far. Where query and key resemble each other that
# grows evenly to the logit, so up to d_qk / 32 * 2^-23 of it, 2.1e-6 for d_qk 576; half of that on average, which was
# seen: 1.1e-6. The rest is for the scale, the exponentials and the sum over tokens.
GPU_LSE_RELATIVE = 3e-6


def logit_magnitude(softmax_scale: float | None, d_qk: int, q_norm: float, k_norm: float) -> float:
    """How large logits may be, beside those of N(0, 1) inputs at the default scale; at least 1.

    The norms are those of the longest query and of the longest key, sqrt(d_qk) for N(0, 1).
    """
    scale = d_qk**-0.5 if softmax_scale is None else softmax_scale
    return max(1.0, scale * q_norm * k_norm / d_qk**0.5)


def tolerance(operation: str, dtype: str, softmax_scale: float | None = None, d_qk: int = 576) -> Tolerance:
    """Bounds for one call with N(0, 1) inputs."""
    magnitude = logit_magnitude(softmax_scale, d_qk, d_qk**0.5, d_qk**0.5)
    return importlib.import_module(f"ops.{operation}.bounds").BY_DTYPE[dtype].at(magnitude)


def relative_error(result, reference) -> float:
    """||result - reference|| / ||reference||, 0 for two zeros."""
    error = np.linalg.norm(np.asarray(result, np.float64) - reference)
    size = np.linalg.norm(reference)
    return float(error / size) if size else float(error)


def check_out(out, reference, bound: Tolerance) -> None:
    """Raises AssertionError where out (..., d_v) is not the reference within the bound."""
    assert out.shape == reference.shape, f"out: shape {out.shape}, expected {reference.shape}"
    _check_positions("out", out, reference)
    finite = np.isfinite(reference)
    out, reference = np.where(finite, out, 0), np.where(finite, reference, 0)
    error = np.abs(out - reference)
    rms = np.sqrt(np.mean(np.square(reference), axis=-1, keepdims=True))
    row_error = np.sqrt(np.mean(np.square(error), axis=-1, keepdims=True))
    allowed = np.maximum(2 * bound.norm * rms, bound.element_absolute)
    _check("out: a row's norm", row_error <= allowed, out, reference)
    allowed = np.maximum(bound.element_relative * np.abs(reference), bound.element_of_row * rms)
    _check("out: an element", error <= np.maximum(allowed, bound.element_absolute), out, reference)
    whole = relative_error(out, reference)
    tiny = np.all(rms <= bound.element_absolute / bound.norm)  # each row at the dtype's spacing: rows were judged above
    assert tiny or whole <= bound.norm, f"out: ||out - ref|| / ||ref|| is {whole:.3g}, bound {bound.norm:.3g}"


def check_lse(lse, reference, bound: Tolerance) -> None:
    """Raises AssertionError where lse, natural, is not the reference within the bound; infinities where they belong."""
    assert lse.shape == reference.shape, f"lse: shape {lse.shape}, expected {reference.shape}"
    _check_positions("lse", lse, reference)
    finite = np.isfinite(reference)
    expected = np.where(finite, reference, 0.0)
    error = np.abs(np.where(finite, lse, 0.0) - expected)
    allowed = np.maximum(bound.lse_absolute, bound.lse_relative * np.abs(expected))
    _check("lse", error <= allowed, lse, reference)


def _check_positions(name: str, result, reference) -> None:
    """NaN, +inf and -inf exactly where the reference has them."""
    for what, where in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        _check(f"{name}: {what} position", where(result) == where(reference), result, reference)


def _check(what: str, good, result, reference) -> None:
    good = np.broadcast_to(good, result.shape)
    if not good.all():
        first = tuple(int(n) for n in np.argwhere(~good)[0])
        raise AssertionError(
            f"{what} differs in {np.count_nonzero(~good)} of {good.size} places, "
            f"first at {first}: {result[first]!r}, expected {reference[first]!r}"
        )
