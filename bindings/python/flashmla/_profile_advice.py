"""Advice on a profile: each rule is a row, with the condition under which it speaks and what it says.

docs/profiling.md tells the rules to users, by the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from flashmla._profile_records import Group

_FEW_CALLS = 8  # fewer show no habit
_ROWS_OF_A_BLOCK = 64  # query rows that the tensor cores take at once
_BOX_ROWS = 16  # rows of a page that TMA brings together; what does not come so is gathered
_LATENCY_SHARE = 0.5  # of the limit: below it a call is bound by latency
_GOOD_SHARE = 0.8  # of the limit, that a kernel reaches when it is bound by it
_MOST_LENGTHS = 512  # of a call, that a profile counts
_ATTENTION = frozenset({"dense_decode", "sparse_decode"})


def _share_a_plan(group: Group) -> str | None:
    own = group.count("own_plan")
    if not group.on_gpu or group.operation not in _ATTENTION or own < 2:
        return None
    maker = "plan_decode" if group.operation == "dense_decode" else "plan_sparse_decode"
    return (
        f"{own} of {len(group.records)} calls made a schedule of their own: make a plan once a step with {maker} and "
        "give it to the calls of all layers"
    )


def _prepare(group: Group) -> str | None:
    host, device = group.median_us("host_ns"), group.median_us("device_ns")
    if not group.on_gpu or len(group.records) < _FEW_CALLS or host is None or device is None or host < device:
        return None
    if group.count("prepared") == len(group.records):
        return f"the host takes {host:.1f} us a call and the device {device:.1f}: capture the step in a CUDA graph"
    return (
        f"the host takes {host:.1f} us a call and the device {device:.1f}: prepare the call once (flashmla.prepare), "
        "or capture the step in a CUDA graph"
    )


def _batch(group: Group) -> str | None:
    share, device = group.share, group.median_us("device_ns")
    if group.operation not in _ATTENTION or not group.batch or share is None or device is None:
        return None
    if not 0 < share < _LATENCY_SHARE:
        return None
    enough = group.batch * _GOOD_SHARE / share
    return (
        f"latency sets the time, {device:.1f} us at {share:.0%} of the limit: bandwidth or tensor cores do from a "
        f"batch of about {enough:.0f} on (now {group.batch})"
    )


def _heads(group: Group) -> str | None:
    if not group.on_gpu or group.operation not in _ATTENTION or not group.h_q:
        return None
    rows = group.h_q // max(group.h_kv, 1) * max(group.s_q, 1)
    if rows >= _ROWS_OF_A_BLOCK:
        return None
    return (
        f"{rows} query rows share a read of the cache, and there is room for {_ROWS_OF_A_BLOCK}: more heads a rank "
        "(data-parallel attention in place of tensor-parallel heads) or draft tokens take little more time"
    )


def _page_size(group: Group) -> str | None:
    if not group.on_gpu or group.operation != "dense_decode" or group.page_size % _BOX_ROWS == 0:
        return None
    return (
        f"rows of pages of {group.page_size} are gathered one by one: pages of a multiple of {_BOX_ROWS}, best of "
        f"{_ROWS_OF_A_BLOCK}, come in boxes"
    )


def _splits(group: Group) -> str | None:
    forced = max(record["num_splits"] for record in group.records)
    # Bits of batch-invariant calls follow from the number; tuned ones were measured.
    if forced < 2 or group.count("batch_invariant") or group.count("tuned"):
        return None
    return f"num_splits is forced to {forced}: 0 lets the schedule balance requests of different lengths"


def _cold(group: Group) -> str | None:
    cold = [record["host_ns"] for record in group.records if "loaded" in record["flags"]]
    if not cold:
        return None
    return (
        f"{len(cold)} calls had to load kernels, the longest took {max(cold) / 1e3:,.0f} us of the host: prepare or "
        "make a call of each kind before you serve"
    )


def _lengths(group: Group) -> str | None:
    """Of calls without a time, whose lengths are never counted on a GPU, no rate is told."""
    uncounted = sum("counted" not in record["flags"] for record in group.timed)
    if not uncounted or group.operation not in _ATTENTION:
        return None
    return (
        f"bytes and FLOP of {uncounted} calls are those of full tables: profile(lengths=True) counts the lengths, "
        f"up to {_MOST_LENGTHS} of a call"
    )


def _captured(group: Group) -> str | None:
    captured = sum(record["device_time"] == "captured" for record in group.records)
    if not captured:
        return None
    return f"{captured} calls were captured in CUDA graphs, whose replays are not seen: time the graph, or run eagerly"


def _lost(group: Group) -> str | None:
    lost = sum(record["device_time"] == "lost" for record in group.records)
    return f"{lost} calls have no device time, for want of events: profile(max_pending=...)" if lost else None


class Rule(NamedTuple):
    """What it is about, and its sentence; None where it has nothing to say."""

    name: str
    sentence: Callable[[Group], str | None]


RULES = (
    Rule("share a plan", _share_a_plan),
    Rule("prepare calls", _prepare),
    Rule("batch size", _batch),
    Rule("heads per rank", _heads),
    Rule("page size", _page_size),
    Rule("split counts", _splits),
    Rule("cold calls", _cold),
    Rule("lengths", _lengths),
    Rule("captured calls", _captured),
    Rule("lost times", _lost),
)
GIVE_OUTPUTS = "give outputs"


class Advice(NamedTuple):
    """A sentence, the rule that it is of, and the calls that it is about."""

    rule: str
    about: str
    sentence: str


def advice(groups: Sequence[Group], outputs_made: int) -> list[Advice]:
    """What the rules say of the groups, and of the whole."""
    found = [
        Advice(rule.name, f"{group.operation} ({group.shape})", sentence)
        for group in groups
        for rule in RULES
        for sentence in [rule.sentence(group)]
        if sentence is not None
    ]
    if outputs_made >= _FEW_CALLS:
        words = f"{outputs_made} calls had outputs made for them: give out= and lse= that are used again"
        found.append(Advice(GIVE_OUTPUTS, "all calls", words))
    return found
