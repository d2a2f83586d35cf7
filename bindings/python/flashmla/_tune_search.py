"""Which choice is the fastest for a shape, and when it is taken instead of the library's rules."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flashmla._cdef import ffi
from flashmla._info import kernels
from flashmla._tune_cases import SPARSE, Shape
from flashmla._tune_device import Replays, Times, alternate
from flashmla._tune_problem import Caches, Lengths, Problem

Choice = tuple[tuple[str, Any], ...]
"""Fields of an entry that say what is chosen; empty: by rule."""
BY_RULE: Choice = ()
_POLICIES = [ffi.integer_const("FLASHMLA_L2_EVICT_NORMAL"), ffi.integer_const("FLASHMLA_L2_EVICT_FIRST")]
_SPLITS = (1, 2, 3, 4, 5, 6, 8, 11, 16, 22, 32, 44, 66, 132)
UNIT = 64  # query rows of a tile, and KV tokens that are worked on as one
_LEAST_PARTS, _MOST_PARTS = 0.25, 6.0  # of a processor, that are worth a try
_WARM_SECONDS = 0.25  # clocks are those of a GPU that has been at work for a while
_SEARCH_US, _SEARCH_ROUNDS = 4000.0, 5
_SURE_US, _SURE_ROUNDS = 12_000.0, 9
_STEP = 0.99  # of the best so far, that another choice must be below to be looked at further
_NEAR, _MOST_NEAR = 1.05, 2  # kernels that are about as fast may be faster with other splits
GAIN, LOSS = 0.015, 0.005
"""A choice is taken if it is faster by more than GAIN, and slower on no other lengths by more than LOSS."""


@dataclass(frozen=True)
class Found:
    """What was found for a shape: the choice, and microseconds of a call with it and by rule.

    nearest: of all choices that were tried the fastest, with its time as a share of the rule's or of the best one's
    before it. It may not be taken.
    """

    shape: Shape
    choice: Choice
    us: float
    rule_us: float
    tried: int
    nearest: tuple[Choice, float] = (BY_RULE, 1.0)


def is_better(candidate: Sequence[float], rule: Sequence[float], *, by: float) -> bool:
    """Whether the times of a candidate are below those by rule of the same rounds by more than a share and the noise:
    what lies between the quartiles of their ratios.
    """
    ratios = sorted(a / b for a, b in zip(candidate, rule, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return middle < 1 - max(by, high - low)


def ratio(candidate: Sequence[float], rule: Sequence[float]) -> float:
    """The median of the ratios of the same rounds: power and clocks drift, so only neighbours compare."""
    return statistics.median(a / b for a, b in zip(candidate, rule, strict=True))


def is_no_worse(candidate: Sequence[float], rule: Sequence[float], *, by: float) -> bool:
    """Whether the median of the ratios of the same rounds is above 1 by less than a share."""
    return ratio(candidate, rule) < 1 + by


class Search:
    """The candidates of a shape, measured on the lengths that it is tuned for."""

    def __init__(self, caches: Caches, device_id: int, shape: Shape, tokens: Sequence[int]) -> None:
        self._problem = Problem(caches, device_id, shape, max(tokens))
        self._torch, self._shape = caches.torch, shape
        self._lengths = [Lengths(count, ragged) for count in tokens for ragged in (False, True)]
        self._processors = self._torch.cuda.get_device_properties(device_id).multi_processor_count
        self._tried: dict[Choice, float] = {}

    def _replays(self, choice: Choice, lengths: Lengths, target_us: float) -> Replays | None:
        """None where the choice names a kernel that does not do the call."""
        entry = self._shape.entry(**dict(choice)) if choice else None
        calls, kernel = self._problem.calls(entry, lengths)
        if dict(choice).get("kernel", kernel) != kernel:
            return None
        return Replays(self._torch, calls, target_us)

    def _timed(self, choices: Iterable[Choice], lengths: Lengths, target_us: float, rounds: int) -> Times:
        found = {choice: self._replays(choice, lengths, target_us) for choice in choices}
        return alternate({choice: replays for choice, replays in found.items() if replays is not None}, rounds)

    def _shares(self, so_far: Choice, more: Sequence[Choice]) -> dict[Choice, float]:
        """Times of some choices as shares of that of the best one so far, the fastest first."""
        times = self._timed([so_far, *more], self._lengths[0], _SEARCH_US, _SEARCH_ROUNDS)
        shares = {choice: ratio(times[choice], times[so_far]) for choice in times if choice != so_far}
        self._tried |= shares
        return dict(sorted(shares.items(), key=lambda one: one[1]))

    def _best(self, so_far: Choice, more: Sequence[Choice]) -> Choice:
        """Of some choices beside the best one so far."""
        for choice, share in self._shares(so_far, more).items():
            return choice if share < _STEP else so_far
        return so_far

    def _kernels(self) -> list[Choice]:
        """Of the operation, but for the one that is taken by rule; many do not do the call."""
        shape = self._shape
        _, by_rule = self._problem.calls(None, self._lengths[0])
        codes = shape.dtype not in {"bfloat16", "float16"}
        rows = [k["name"] for k in kernels() if k["operation"] == shape.operation and k["target"] != "cpu"
                and (codes or k["dtype"] == shape.dtype)]  # fmt: skip
        return [(("kernel", name),) for name in rows if name != by_rule]

    def _splits(self, base: Choice) -> list[Choice]:
        shape = self._shape
        rows = shape.s_q * (shape.h_q // shape.h_kv)
        tokens = 1 if shape.operation != SPARSE else shape.s_q
        tiles = shape.batch * shape.h_kv * tokens * -(-rows // tokens // UNIT)
        units = -(-shape.capacity // UNIT) + -(-shape.extra_topk // UNIT)
        low, high = (share * self._processors / tiles for share in (_LEAST_PARTS, _MOST_PARTS))
        return [(*base, ("num_splits", n)) for n in _SPLITS if n <= units and low <= n <= max(high, 1)]

    def _candidates(self) -> list[Choice]:
        """The best one stage after the other, the last one first, and those that it came from."""
        found, bases = [BY_RULE], [BY_RULE]
        if self._shape.operation != SPARSE:
            shares = self._shares(BY_RULE, self._kernels())
            near = [choice for choice, share in shares.items() if share < _NEAR][:_MOST_NEAR]
            found += [choice for choice in near[:1] if shares[choice] < _STEP]
            bases += near
        found.append(self._best(found[-1], [choice for base in bases for choice in self._splits(base)]))
        if self._shape.operation != SPARSE:
            found.append(self._best(found[-1], [(*found[-1], ("l2_policy", policy)) for policy in _POLICIES]))
        return [choice for choice in dict.fromkeys(reversed(found)) if choice != BY_RULE]

    def run(self) -> Found:
        """The first candidate that is better for sure, in rounds that it was not chosen by."""
        self._warm()
        candidates = self._candidates()
        nearest = min(self._tried.items(), key=lambda one: one[1], default=(BY_RULE, 1.0))
        choices = [BY_RULE, *candidates]
        first = self._timed(choices, self._lengths[0], _SURE_US, _SURE_ROUNDS)
        rule_us = statistics.median(first[BY_RULE])
        for choice in candidates:
            if is_better(first[choice], first[BY_RULE], by=GAIN) and self._loses_nowhere(choice):
                us = rule_us * ratio(first[choice], first[BY_RULE])
                return Found(self._shape, choice, us, rule_us, len(self._tried), nearest)
        return Found(self._shape, BY_RULE, rule_us, rule_us, len(self._tried), nearest)

    def _warm(self) -> None:
        replays = self._replays(BY_RULE, self._lengths[0], _SURE_US)
        end = time.monotonic() + _WARM_SECONDS
        while replays is not None and time.monotonic() < end:
            replays.time()

    def _loses_nowhere(self, choice: Choice) -> bool:
        for lengths in self._lengths[1:]:
            times = self._timed([BY_RULE, choice], lengths, _SURE_US, _SURE_ROUNDS)
            if not is_no_worse(times[choice], times[BY_RULE], by=LOSS):
                return False
        return True
