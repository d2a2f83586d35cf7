"""What the tables of docs/performance.md share: Markdown, of what records are, verdicts beside peers, cards."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable

import chart_grid
import provenance
import records
from readme_section import table_row

Section = Callable[[list[dict]], list[str]]  # records -> lines of Markdown
NAMES = {"flashmla": "FlashMLA", "fa3": "FA3", "vllm": "vLLM"}


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


def card_of(record: dict) -> str:
    """The card's short name, or the whole one of a machine without."""
    return record["gpu"].removeprefix("NVIDIA ").split()[0] if "gpu" in record else record["cpu"]


def by_card(made: list[dict]) -> dict[str, list[dict]]:
    """In the order of their names."""
    found: dict[str, list[dict]] = {}
    for record in sorted(made, key=card_of):
        found.setdefault(card_of(record), []).append(record)
    return found


def newest_card(made: list[dict]) -> str:
    """That of the last record; older records have no date."""
    return card_of(max(made, key=lambda record: (record.get("date", ""), card_of(record))))


def of_cards(full: Section, summary: Section) -> Section:
    """A section of every card: in full of that with the newest records, of the others their summaries."""

    def section(made: list[dict]) -> list[str]:
        last = newest_card(made)
        each = [(full if card == last else summary)(these) for card, these in by_card(made).items()]
        return "\n\n".join("\n".join(lines) for lines in each).split("\n")

    return section


def summary_beside_peers(made: list[dict]) -> list[str]:
    beside = [record for record in made if record["peers"]]
    counted = f"Of {len(beside)} timed beside a peer this" if beside else "None was timed beside a peer."
    return [*about(made), "", counted, *(verdict_of_grid(beside) if beside else [])]


def spread_of(values: list[float], form: str = ".2f") -> str:
    """Median and ends, in words."""
    return f"median {statistics.median(values):{form}}, from {min(values):{form}} to {max(values):{form}}"


def met(verdicts: list[str | None]) -> str:
    """How many goals are met, of those that are set."""
    judged = [verdict for verdict in verdicts if verdict]
    return f"{sum(verdict == 'met' for verdict in judged)} of {len(judged)}"
