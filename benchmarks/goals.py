"""What the dense decode kernels are meant to reach, as ratios to a peer, which do not depend on the machine.

THEIRS_US and GOAL_US are microseconds on one H100 SXM in a run of which no record is kept here: what FlashMLA (commit
9241ae3, metadata made beforehand, combine included) took, and what the goal is on that machine; for quantised caches
what vLLM's kernel for fp8 caches (of vLLM 0.22.1) took or, where no peer has the format, the machine's limit.
A goal is met when ours / theirs, both of one run, is at most the ratio of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import records


@dataclass(frozen=True)
class Goal:
    case: tuple
    theirs_us: float
    goal_us: float

    @property
    def ratio(self) -> float:
        return self.goal_us / self.theirs_us


GOALS = (
    Goal((128, 1, 128, 4096), 260.9, 235.0),
    Goal((128, 2, 128, 4096), 477.1, 430.0),
    Goal((128, 1, 128, 8192), 539.0, 465.0),
    Goal((64, 1, 128, 16384), 523.1, 465.0),
    Goal((128, 1, 64, 4096), 212.8, 202.0),
    Goal((128, 1, 32, 4096), 209.1, 202.0),
    Goal((128, 1, 16, 4096), 207.8, 202.0),
    Goal((64, 2, 16, 4096), 113.5, 103.0),
    Goal((1, 1, 128, 8192), 26.7, 12.5),
    Goal((1, 1, 128, 65536), 55.4, 36.0),
    Goal((1, 1, 16, 131072), 85.0, 57.0),
    Goal((16, 1, 128, 4096), 46.7, 35.0),
    Goal((32, 1, 128, 4096), 77.7, 58.0),
    Goal((4, 1, 128, 32768), 79.7, 58.0),
    Goal((128, 1, 128, 4096, "varlen"), 294.0, 242.0),
    Goal((128, 2, 128, 4096, "varlen"), 502.4, 445.0),
)
# case: format first
QUANTISED = (
    Goal(("fp8", 128, 1, 128, 4096), 229.0, 185.0),
    Goal(("fp8", 128, 1, 64, 4096), 129.0, 112.0),
    Goal(("fp8", 128, 1, 16, 4096), 120.0, 106.0),
    Goal(("fp8", 16, 1, 128, 4096), 42.0, 34.0),
    Goal(("fp8", 1, 1, 128, 65536), 42.0, 32.0),
    Goal(("fp8", 1, 1, 16, 131072), 46.0, 35.0),
    Goal(("v32", 128, 1, 64, 4096), 110.0, 140.0),
)
FRESH_PLAN_US = 5.0  # a plan made in every call costs at most so much more than a reused one
BATCH_INVARIANT = 1.10  # batch-invariant plans take at most so many times the time of normal ones, for b >= 16
TRACE_LEAD, TRACE_LIMIT = 1.15, 1.08  # of a trace's snapshot: see trace_verdict

# Host time of a call of host.py, by device and figure: on a GPU microseconds beyond the driver's own launches.
HOST_US = {
    "cuda": {"given": 6.0, "made": 16.0, "plan": 8.0, "prepared": 2.0, "prepared q out": 2.0, "entry": 1.0},
    "cpu": {"given": 7.0, "made": 12.0},
}
HOST_US_OF = {("cpu", "numpy", "given"): 15.0, ("cpu", "numpy", "made"): 15.0, ("cpu", "jax", "made"): 100.0}


def host_goal(device: str, framework: str, figure: str) -> float | None:
    """The goal for a figure of host.py; that of the device is meant for PyTorch, and in C for its entry."""
    of_all = HOST_US[device].get(figure) if framework in {"torch", "C"} else None
    return HOST_US_OF.get((device, framework, figure), of_all)


def goal_of(case: tuple) -> Goal | None:
    """The goal for a benchmark case, if it has one."""
    return next((goal for goal in (*GOALS, *QUANTISED) if goal.case == case), None)


def verdict(value: float, bound: float) -> str:
    """`met`, or by how much not, with a word where that is less than what counts as equal."""
    if value <= bound:
        return "met"
    missed = f"missed by {100 * (value / bound - 1):.1f} %"
    return f"{missed} (equal)" if value <= records.EQUAL * bound else missed


def case_verdict(record: dict) -> str | None:
    """Of a record of dense_decode.py: None where no goal is set or FlashMLA did not run beside."""
    goal = goal_of(tuple(record["case"]))
    if goal is None or "flashmla" not in record["peers"]:
        return None
    return verdict(record["us"] / record["peers"]["flashmla"], goal.ratio)


def quantised_verdict(record: dict) -> str | None:
    """Of a record of quantised.py, likewise."""
    goal = goal_of(tuple(record["case"]))
    theirs = record["peers"].get("vllm") if record["case"][0] == "fp8" else record["limit_us"]
    return None if goal is None or theirs is None else verdict(record["us"] / theirs, goal.ratio)


def trace_verdict(record: dict) -> str | None:
    """A snapshot is to be 1.15 times as fast as the best peer or, where the peer itself is within 1.15 of the limit, to
    take at most 1.08 of the limit.
    """
    best = records.best_peer(record)
    if best is None:
        return None
    if best < TRACE_LEAD * record["limit_us"]:
        return verdict(record["us"], max(best / TRACE_LEAD, TRACE_LIMIT * record["limit_us"]))
    return verdict(record["us"], best / TRACE_LEAD)


def tuned_verdict(record: dict) -> str:
    """Of calls with a tuning file beside those without."""
    ratio = record["ratio"]
    return "loses" if ratio > records.EQUAL else "gains" if ratio < 1 / records.EQUAL else "keeps"
