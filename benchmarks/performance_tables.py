"""The tables of docs/performance.md: a function a section takes its records and gives Markdown lines."""

from __future__ import annotations

import statistics
from collections import Counter

import chart_grid
import goals
import grid_points
import provenance
import records
from readme_section import table_row

NAMES = {"flashmla": "FlashMLA", "fa3": "FA3"}


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [table_row(*header), "|---" * len(header) + "|", *(table_row(*row) for row in rows)]


def machine_of(made: list[dict]) -> str:
    """Card, driver and kernels."""
    first = made[0]
    kernels = Counter(record["digest"] for record in made)
    which = ", ".join(f"{digest} ({count})" if len(kernels) > 1 else digest for digest, count in kernels.items())
    return f"{first['gpu']}, driver {first['driver']}, kernels {which}"


def about(made: list[dict], *, host: str = "") -> list[str]:
    """Card, driver, and of which kernels and sources the figures are."""
    first, *rest = provenance.lines(made)
    where = f"{made[0]['gpu']}, driver {made[0]['driver']}" if "gpu" in made[0] else made[0]["cpu"]
    return [f"{where}{host}. {first}", *rest]


def case_name(record: dict) -> str:
    return ", ".join(map(str, record["case"]))


def peers_of(made: list[dict]) -> list[str]:
    """Those that ran beside any of them."""
    return [name for name in NAMES if any(name in record["peers"] for record in made)]


def us(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.1f}" if name in values else "-"


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
    lines = [*about(made), "", "![time over limit](plots/time_over_limit.svg)", "", *table(header, rows)]
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
        "![best peer's time over ours](plots/grid.svg)",
    ]
    return [*lines, "", *lost_points("batch, s_q, h_q, tokens", beside)]


def verdict_of_grid(beside: list[dict]) -> list[str]:
    leads = [chart_grid.lead(record) for record in beside]
    won, lost = sum(lead > records.EQUAL for lead in leads), sum(map(records.loses, beside))
    return [
        f"library is faster than the best peer at {won}, equal at {len(beside) - won - lost}, slower at {lost}.",
        f"The best peer's time over ours: median {statistics.median(leads):.2f}, least {min(leads):.2f}.",
    ]


def lost_points(case: str, beside: list[dict]) -> list[str]:
    """Every point where a peer is faster, with its limit where records have one."""
    lost = sorted((record for record in beside if records.loses(record)), key=chart_grid.lead)
    if not lost:
        return ["No point is lost."]
    peers, limits = peers_of(lost), ["limit"] * ("limit_us" in lost[0])
    header = [case, *limits, "us", *(NAMES[name] for name in peers), "best peer / us"]
    rows = []
    for record in lost:
        row = [case_name(record), *(f"{record['limit_us']:.1f}" for _ in limits), f"{record['us']:.1f}"]
        rows.append([*row, *(us(record["peers"], name) for name in peers), f"{chart_grid.lead(record):.3f}"])
    return ["Every point that is lost:", "", *table(header, rows)]


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
    header += ["batch invariant / us", f"<= {goals.BATCH_INVARIANT:g}"]
    rows = []
    for record in made:
        fresh, invariant = record["us_planned"] - record["us"], record["us_batch_invariant"] / record["us"]
        planned, theirs = record["peers_planned"], record["peers"]
        row = [case_name(record), f"{record['us']:.1f}", f"{fresh:+.1f}"]
        row.append(f"{planned['flashmla'] - theirs['flashmla']:+.1f}" if "flashmla" in planned else "-")
        row += [goals.verdict(fresh, goals.FRESH_PLAN_US), f"{invariant:.3f}"]
        rows.append([*row, goals.verdict(invariant, goals.BATCH_INVARIANT)])
    return [*about(made), "", *table(header, rows)]


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


def sparse_section(made: list[dict]) -> list[str]:
    peers = peers_of(made)
    header = ["format, batch, s_q, h_q, topk, extra", "us", *(NAMES[name] for name in peers), "us / best peer"]
    rows = []
    for record in made:
        best, goal = records.best_peer(record), record["goal_us"]
        row = [case_name(record), f"{record['us']:.1f}", *(us(record["peers"], name) for name in peers)]
        row += [f"{record['us'] / best:.2f}" if best else "-", f"{goal:g}" if goal else "-"]
        verdict = "-" if goal is None else "met" if record["us"] <= goal else f"missed by {record['us'] / goal - 1:.0%}"
        rows.append([*row, verdict, f"{record['rel_err']['ours']:.1e}"])
    return [*about(made), "", *table([*header, "goal (H100)", "verdict", "error"], rows)]


def sparse_grid_section(made: list[dict]) -> list[str]:
    beside = [record for record in made if record["peers"]]
    if not beside:
        return ["No record with a peer is committed yet."]
    lines = [*about(made), "", f"{len(made)} shapes were timed, {len(beside)} of them beside a peer: of these this"]
    lines += [*verdict_of_grid(beside), ""]
    return [*lines, *lost_points("format, batch, s_q, h_q, topk, extra", beside)]


def sparse_plans_section(made: list[dict]) -> list[str]:
    splits = list(made[0]["us_batch_invariant"])
    names = ["whole" if n == "0" else f"{n} parts" for n in splits]
    rows = []
    for record in made:
        kv_format, *shape, extra_format, extra_topk = record["case"]
        extra = f" + {extra_topk} of {extra_format}" if extra_topk else ""
        row = [f"{kv_format}, {', '.join(map(str, shape))}{extra}", f"{record['us']:.1f}"]
        row.append(f"{record['us_planned'] - record['us']:+.1f}")
        rows.append([*row, *(f"{record['us_batch_invariant'][n] / record['us']:.2f}" for n in splits)])
    header = ["format, batch, s_q, h_q, topk", "us", "plan in every call", *(f"{name} / us" for name in names)]
    return [*about(made), "", *table(header, rows)]


def writers_section(made: list[dict]) -> list[str]:
    few, many = min(record["rows"] for record in made), max(record["rows"] for record in made)
    found = {(record["op"], record["kv_format"], record["rows"]): record for record in made}
    rows = []
    for op, kv_format, _ in dict.fromkeys((op, kv_format, None) for op, kv_format, _ in found):
        short, long = found[op, kv_format, few], found[op, kv_format, many]
        rows.append([f"`{op}`", kv_format, f"{short['us']:.2f}", f"{long['us']:.1f}", f"{long['share']:.2f}"])
    header = ["operation", "format", f"us, {few} rows", f"us, {many:,} rows", "share of the copy's rate"]
    return [*about(made), "", *table(header, rows)]


SECTIONS = {
    "dense_decode": cases_section,
    "grid": grid_section,
    "traces": traces_section,
    "plans": plans_section,
    "host": host_section,
    "sparse_decode": sparse_section,
    "sparse_grid": sparse_grid_section,
    "sparse_plans": sparse_plans_section,
    "writers": writers_section,
}
