"""Tables of docs/performance.md on sparse decode and on quantised caches: a function a section."""

from __future__ import annotations

import goals
import records
from markdown_tables import (
    NAMES,
    about,
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


def sparse_plans_summary(made: list[dict]) -> list[str]:
    added = spread_of([record["us_planned"] - record["us"] for record in made], ".1f")
    return [*about(made), "", f"A plan made in every call adds {added} us."]


def writers_section(made: list[dict]) -> list[str]:
    few, many = min(record["rows"] for record in made), max(record["rows"] for record in made)
    found = {(record["op"], record["kv_format"], record["rows"]): record for record in made}
    rows = []
    for op, kv_format, _ in dict.fromkeys((op, kv_format, None) for op, kv_format, _ in found):
        short, long = found[op, kv_format, few], found[op, kv_format, many]
        rows.append([f"`{op}`", kv_format, f"{short['us']:.2f}", f"{long['us']:.1f}", f"{long['share']:.2f}"])
    header = ["operation", "format", f"us, {few} rows", f"us, {many:,} rows", "share of the copy's rate"]
    return [*about(made), "", *table(header, rows)]


def writers_summary(made: list[dict]) -> list[str]:
    many = max(record["rows"] for record in made)
    shares = spread_of([record["share"] for record in made if record["rows"] == many])
    return [*about(made), "", f"Shares of the copy's rate, {many:,} rows: {shares}."]


def quantised_section(made: list[dict]) -> list[str]:
    """Times, then errors."""
    peers = peers_of(made)
    named = [NAMES[name] for name in peers]
    timed = []
    for record in made:
        best, goal = records.best_peer(record), goals.goal_of(tuple(record["case"]))
        row = [case_name(record), record["way"], f"{record['limit_us']:.1f}", f"{record['us']:.1f}"]
        row += [f"{record['spread']:.3f}", *(us(record["peers"], name) for name in peers)]
        row += [f"{record['us'] / record['limit_us']:.2f}", f"{record['us'] / best:.3f}" if best else "-"]
        timed.append([*row, f"{goal.ratio:.3f}" if goal else "-", goals.quantised_verdict(record) or "-"])
    header = ["format, batch, s_q, h_q, tokens", "q, `compute`", "limit", "us", "spread", *named]
    header += ["us / limit", "us / peer", "goal", "verdict"]
    return [*about(made), "", *table(header, timed), "", *error_table(made)]


def error_table(made: list[dict]) -> list[str]:
    """A row a case, a column a mean of the keys; each way's error and each peer's in a cell."""
    ways, peers = list(dict.fromkeys(record["way"] for record in made)), peers_of(made)
    cases: dict[str, dict[str, dict[str, float]]] = {}
    for record in made:
        cases.setdefault(case_name(record), {}).update({record["way"]: record["rel_err"]} | record["peers_rel_err"])
    means = sorted(made[0]["rel_err"], key=float)
    rows = []
    for case, errors in cases.items():
        there = [errors[name] for name in (*ways, *peers) if name in errors]
        rows.append([case, *(" / ".join(f"{by_mean[mean]:.1e}" for by_mean in there) for mean in means)])
    names = " / ".join([*ways, *(NAMES[name] for name in peers)])
    about_cells = f"Errors, by the mean of the keys, of {names} where a format has them:"
    return [about_cells, "", *table(["format, batch, s_q, h_q, tokens", *(f"mean {mean}" for mean in means)], rows)]


def quantised_summary(made: list[dict]) -> list[str]:
    verdicts = met([goals.quantised_verdict(record) for record in made])
    return [*summary_beside_peers(made), f"Goals met: {verdicts}."]


SECTIONS = {
    "quantised": of_cards(quantised_section, quantised_summary),
    "sparse_decode": of_cards(sparse_section, summary_beside_peers),
    "sparse_grid": of_cards(sparse_grid_section, summary_beside_peers),
    "sparse_plans": of_cards(sparse_plans_section, sparse_plans_summary),
    "writers": of_cards(writers_section, writers_summary),
}
