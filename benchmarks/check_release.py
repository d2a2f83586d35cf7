#!/usr/bin/env python3
"""What must hold of a release: the documents show the committed records, and these are of the sources as they are.

Run by `build.py check-release`, after the kernels were compiled.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import digest
import plots
import provenance
import readme_section
from markdown_tables import by_card

REMEDY = "record again, or remove the records"


def not_of_these_sources(shown: dict[str, list[dict]]) -> list[str]:
    """A sentence for each table whose records are of other sources."""
    found = []
    for title, made in shown.items():
        if names := provenance.moved(made):
            found.append(f"{title}: records of other {', '.join(names)} than these: {REMEDY}")
    return found


def outdated() -> list[str]:
    """The documents that are not what their makers write."""
    found = []
    if readme_section.parts(readme_section.README.read_text())[1] != readme_section.current():
        found.append("README.md: run python benchmarks/readme_section.py")
    made = plots.newest(plots.RESULTS)
    text = plots.PAGE.read_text()
    drawn = {name: (plots.PLOTS / name).read_text() for name in plots.charts(made)}
    if plots.page(text, made) != text or drawn != plots.charts(made):
        found.append("docs/performance.md: run python benchmarks/plots.py")
    return found


def problems() -> list[str]:
    """One sentence each."""
    found = [] if digest.current() else ["no compiled kernels: no record can be compared with them"]
    shown = {f"README.md, {name}": made for name, made in readme_section.read_records(readme_section.RESULTS).items()}
    for name, made in plots.newest(plots.RESULTS).items():
        for card, these in by_card(made).items():
            shown[f"docs/performance.md, {name} on {card}"] = these
    return found + not_of_these_sources(shown) + outdated()


def main() -> int:
    found = problems()
    print("\n".join(found) or "records and documents are of these sources")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
