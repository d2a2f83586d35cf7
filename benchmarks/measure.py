"""A quick measurement of one problem, for programs with hundreds of them: ours beside the peers, outputs compared."""

from __future__ import annotations

import peer_libraries
import records
import timing
import torch
from contenders import Ours
from limits import Ceilings
from problem import Problem


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, float]:
    """Largest and relative."""
    theirs = theirs.view_as(ours).float()
    delta = ours.float() - theirs
    return {
        "max_diff": float(f"{float(delta.abs().max()):.3g}"),
        "rel_diff": float(f"{float(delta.norm() / theirs.norm()):.3g}"),
    }


def timed(p: Problem, graphs: dict[str, timing.Replays], ceilings: Ceilings, rounds: int) -> dict:
    """The fields of a record that come from the clock."""
    times = timing.alternate(graphs, rounds)
    median = timing.medians(times)
    return {
        "us": round(median["ours"], 2),
        "spread": round(timing.spread(times["ours"]), 4),
        "rounds": rounds,
        "limit_us": ceilings.us(p),
        "peers": {name: round(us, 2) for name, us in median.items() if name != "ours"},
    }


def quick(p: Problem, ceilings: Ceilings, *, target_us: float, rounds: int, rounds_again: int) -> dict:
    """Medians of a few alternating rounds, as the fields of a record. A point that loses is timed again, with more
    rounds; `first` then holds what it lost with.
    """
    ours = Ours(p)
    graphs = {"ours": timing.Replays(ours.calls, target_us)}
    compared: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, make in peer_libraries.ALL.items():
        try:
            calls = make(p)
            if calls is None:
                continue
            if name == "flashmla":
                ours.calls[0]()  # the graph's last call was with another table
                compared = difference(ours.out, calls[0]()[0])
            graphs[name] = timing.Replays(calls, target_us)
        except (RuntimeError, AssertionError) as error:  # a shape that this peer does not do
            failed[name] = str(error)[:200]
    made = timed(p, graphs, ceilings, rounds)
    if records.loses(made):
        first = {"us": made["us"], "peers": made["peers"]}
        made = timed(p, graphs, ceilings, rounds_again) | {"first": first}
    return made | compared | ({"peers_failed": failed} if failed else {})
