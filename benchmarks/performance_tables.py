"""The tables of docs/performance.md on dense decode and host time, and which function makes which section.

A section's function takes its records and gives Markdown lines.
"""

from __future__ import annotations

import cache_tables
import goals
import grid_points
import records
from markdown_tables import (
    NAMES,
    about,
    card_of,
    case_name,
    lost_points,
    met,
    of_cards,
    peers_of,
    spread_of,
    summary_beside_peers,
    table,
    us,
    verdict_of_grid,
)


def plot_of(made: list[dict], name: str, what: str) -> str:
    """The image that plots.py draws of these records."""
    return f"![{what}](plots/{plot_name(made, name)})"


def plot_name(made: list[dict], name: str) -> str:
    return f"{name}_{card_of(made[0]).lower()}.svg"


def cases_section(made: list[dict]) -> list[str]:
    peers = peers_of(made)
    header = ["batch, s_q, h_q, tokens", "limit", "us", "spread", *(NAMES[name] for name in peers)]
    header += ["us / limit", "us / FlashMLA", "goal", "verdict"]
    rows = []
    for record in made:
        goal, theirs = goals.goal_of(tuple(record["case"])), record["peers"].get("flashmla")
        row = [case_name(record), f"{record['limit_us']:.1f}", f"{record['us']:.1f}", f"{record['spread']:.3f}"]
        row += [us(record["peers"], name) for name in peers]
        row += [f"{record['us'] / record['limit_us']:.2f}", f"{record['us'] / theirs:.3f}" if theirs else "-"]
        rows.append([*row, f"{goal.ratio:.3f}" if goal else "-", goals.case_verdict(record) or "-"])
    lines = [*about(made), "", plot_of(made, "time_over_limit", "time over limit"), "", *table(header, rows)]
    return [*lines, "", "With a plan made in every call, and as cold single calls:", "", *other_calls(made, peers)]


def other_calls(made: list[dict], peers: list[str]) -> list[str]:
    """What a plan in every call adds, and times of cold single calls."""
    header = ["batch, s_q, h_q, tokens", "plan in every call", *(f"{NAMES[name]} likewise" for name in peers)]
    header += ["cold", *(f"{NAMES[name]} cold" for name in peers)]
    rows = []
    for record in made:
        row = [case_name(record), f"{record['us_planned'] - record['us']:+.1f}"]
        for name in peers:
            planned = record.get("peers_planned", {})
            row.append(f"{planned[name] - record['peers'][name]:+.1f}" if name in planned else "-")
        rows.append([*row, f"{record['us_cold']:.1f}", *(us(record["peers_cold"], name) for name in peers)])
    return table(header, rows)


def cases_summary(made: list[dict]) -> list[str]:
    ratios = [record["us"] / theirs for record in made if (theirs := record["peers"].get("flashmla"))]
    lines = [*about(made), "", f"us / limit: {spread_of([record['us'] / record['limit_us'] for record in made])}."]
    lines += [f"us / FlashMLA: {spread_of(ratios, '.3f')}."] if ratios else []
    lines.append(f"Goals met: {met([goals.case_verdict(record) for record in made])}.")
    return [*lines, "", plot_of(made, "time_over_limit", "time over limit")]


def head_sizes_section(made: list[dict]) -> list[str]:
    rows = []
    for record in made:
        d_qk, *shape = record["case"]
        row = [str(d_qk), ", ".join(map(str, shape)), f"{record['limit_us']:.1f}", f"{record['us']:.1f}"]
        rows.append([*row, f"{record['us'] / record['limit_us']:.2f}", f"{record['rel_err']:.1e}"])
    header = ["d_qk", "batch, s_q, h_q, tokens", "limit", "us", "us / limit", "error"]
    return [*about(made), "", *table(header, rows)]


def head_sizes_summary(made: list[dict]) -> list[str]:
    ratios = spread_of([record["us"] / record["limit_us"] for record in made])
    return [*about(made), "", f"us / limit: {ratios}."]


def grid_section(made: list[dict]) -> list[str]:
    beside = [record for record in made if record["peers"]]
    if not beside:
        return ["No record with a peer is committed yet."]
    lines = [
        *about(made),
        "",
        f"{len(beside)} of the {len(grid_points.points(grid_points.PHASES))} shapes of the grid were timed: this",
        *verdict_of_grid(beside),
        "",
        plot_of(made, "grid", "best peer's time over ours"),
    ]
    return [*lines, "", *lost_points("batch, s_q, h_q, tokens", beside)]


def grid_summary(made: list[dict]) -> list[str]:
    return [*summary_beside_peers(made), "", plot_of(made, "grid", "best peer's time over ours")]


def traces_section(made: list[dict]) -> list[str]:
    """Snapshots of one trace, concurrency, s_q and h_q share a line."""
    groups: dict[tuple, list[dict]] = {}
    for record in made:
        trace, concurrent, _, s_q, h_q = record["case"]
        groups.setdefault((trace, concurrent, s_q, h_q), []).append(record)

    def values(found: list[float]) -> str:
        return ", ".join(f"{value:.2f}" for value in found) or "-"

    rows = []
    for key, group in sorted(groups.items()):
        leads = [best / record["us"] for record in group if (best := records.best_peer(record))]
        verdicts = dict.fromkeys(goals.trace_verdict(record) or "-" for record in group)
        row = [", ".join(map(str, key)), ", ".join(f"{record['us']:.1f}" for record in group), values(leads)]
        rows.append([*row, values([record["us"] / record["limit_us"] for record in group]), "; ".join(verdicts)])
    header = ["trace, concurrent, s_q, h_q", "us of each snapshot", "best peer / us", "us / limit", "verdict"]
    return [*about(made), "", *table(header, rows)]


def plans_section(made: list[dict]) -> list[str]:
    header = ["batch, s_q, h_q, tokens", "us", "plan in every call", "FlashMLA likewise", f"<= {goals.FRESH_PLAN_US:g}"]
    header += ["batch invariant / us", f"<= {goals.BATCH_INVARIANT:g}", "batch-invariant plan in every call"]
    rows = []
    for record in made:
        fresh, invariant = record["us_planned"] - record["us"], record["us_batch_invariant"] / record["us"]
        planned, theirs = record["peers_planned"], record["peers"]
        row = [case_name(record), f"{record['us']:.1f}", f"{fresh:+.1f}"]
        row.append(f"{planned['flashmla'] - theirs['flashmla']:+.1f}" if "flashmla" in planned else "-")
        row += [goals.verdict(fresh, goals.FRESH_PLAN_US), f"{invariant:.3f}"]
        row.append(goals.verdict(invariant, goals.BATCH_INVARIANT))
        own = record.get("us_batch_invariant_planned")
        rows.append([*row, "-" if own is None else f"{own - record['us_batch_invariant']:+.1f}"])
    return [*about(made), "", *table(header, rows)]


def plans_summary(made: list[dict]) -> list[str]:
    fresh = [record["us_planned"] - record["us"] for record in made]
    invariant = [record["us_batch_invariant"] / record["us"] for record in made]
    return [
        *about(made),
        "",
        f"A plan made in every call adds {spread_of(fresh, '.1f')} us; at most {goals.FRESH_PLAN_US:g} in",
        f"{met([goals.verdict(each, goals.FRESH_PLAN_US) for each in fresh])}.",
        f"Batch invariant / us: {spread_of(invariant)}; at most {goals.BATCH_INVARIANT:g} in",
        f"{met([goals.verdict(each, goals.BATCH_INVARIANT) for each in invariant])}.",
    ]


def tuned_section(made: list[dict]) -> list[str]:
    """The shapes that a file changes, or seems to."""
    verdicts = {name: sum(goals.tuned_verdict(record) == name for record in made) for name in ("gains", "loses")}
    rows = []
    for record in made:
        if (verdict := goals.tuned_verdict(record)) != "keeps":
            case = f"{record['operation']} {case_name(record)}"
            times = f"{record['rule_us']:.1f}", f"{record['us']:.1f}", f"{record['ratio']:.3f}"
            choice = f"{record['kernels']['tuned']}, num_splits {record['num_splits']['tuned']}"
            rows.append([case, *times, verdict, choice if record["tuned"] else "no entry"])
    told = f"Of {len(made)} shapes {verdicts['gains']} faster, {verdicts['loses']} slower; the others keep their time"
    lines = [*about(made), "", told, f"within {100 * (records.EQUAL - 1):.0f} %."]
    header = ["case", "us without", "us with", "ratio", "verdict", "with"]
    return [*lines, "", *table(header, rows)] if rows else lines


def host_section(made: list[dict]) -> list[str]:
    """A table for the host of the GPU and one for the machine without."""
    lines = []
    for device in ("cuda", "cpu"):
        if there := [record for record in made if record["device"] == device]:
            host = f"; host {there[0]['cpu']}" if device == "cuda" else ""
            lines += ["", *about(there, host=host), "", *host_table(there)]
    return lines[1:]


def host_table(made: list[dict]) -> list[str]:
    """Goals are judged by what a call takes beyond its launches, where it has some."""
    rows = []
    for record in made:
        goal = goals.host_goal(record["device"], record["framework"], record["figure"])
        judged = record.get("beyond_us", record["us"])
        row = [
            record["framework"],
            record["figure"],
            f"{record['us']:.1f}",
            f"{judged:.1f}" if "beyond_us" in record else "-",
        ]
        rows.append([*row, f"{goal:g}" if goal else "-", goals.verdict(judged, goal) if goal else "-"])
    return table(["caller", "call", "us", "beyond its launches", "goal", "verdict"], rows)


SECTIONS = {
    "dense_decode": of_cards(cases_section, cases_summary),
    "head_sizes": of_cards(head_sizes_section, head_sizes_summary),
    "grid": of_cards(grid_section, grid_summary),
    "traces": of_cards(traces_section, summary_beside_peers),
    "plans": of_cards(plans_section, plans_summary),
    "tuned": of_cards(tuned_section, tuned_section),
    "host": host_section,
    **cache_tables.SECTIONS,
}
