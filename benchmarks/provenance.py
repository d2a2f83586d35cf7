"""Of which kernels and sources a record is, and whether the tree has moved on since.

A record names the kernels (a hash over the cubins) and, by a hash over text, the C and Python files that decide its
figures beside them. Comments of C files do not count.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import digest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "libflashmla" / "src"
PACKAGE = ROOT / "bindings" / "python" / "flashmla"
MOVED = "The sources have moved on since: "
# Key of a record -> what it stands for.
NAMES = {
    "digest": "kernels",
    "selection": "host selection",  # chooses kernels, cuts the work, launches
    "cpu_sources": "CPU sources",
    "host_sources": "host sources",  # what a call costs before anything is computed
}


def files_of(key: str) -> list[Path]:
    """The files behind a key that names sources."""
    folders = {
        "selection": ("schedule", "attention", "formats", "cuda", "ops", "tuning"),
        "cpu_sources": ("schedule", "attention", "formats", "cpu", "ops"),
        "host_sources": ("core", "ops"),
    }[key]
    other = {"selection": "cpu", "cpu_sources": "cuda"}.get(key)
    found = [path for folder in folders for path in (SOURCE / folder).rglob("*") if path.suffix in {".c", ".h", ".inc"}]
    found = [path for path in found if other is None or not re.match(rf"{other}(_|\.|$)", path.name)]
    if key == "host_sources":
        beside = PACKAGE / "integrations"  # which make calls of the package
        found += [path for path in PACKAGE.rglob("*.py") if path.name != "_cdef.py" and beside not in path.parents]
    return sorted(found)


def current(key: str) -> str | None:
    """The hash of this tree; None where it has no compiled kernels."""
    if key == "digest":
        return digest.current()
    found = hashlib.sha256()
    for path in files_of(key):
        text = path.read_text()
        if path.suffix != ".py":
            text = " ".join(re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL).split())
        found.update(f"{path.relative_to(ROOT).as_posix()}\0{text}\0".encode())
    return found.hexdigest()[:16]


def keys_of(record: dict) -> tuple[str, ...]:
    """What decides the figures of a record."""
    if record.get("benchmark") == "host":
        return ("digest", "host_sources") if "gpu" in record else ("host_sources",)
    return ("digest", "selection") if "gpu" in record else ("cpu_sources",)


def facts(**about: str) -> dict[str, str]:
    """What a new record says; `about` is what is known of it."""
    return {key: current(key) or "none" for key in keys_of(about)}


def moved(made: list[dict], *, unknown: bool = True) -> list[str]:
    """The names of what some of the records, which are of one kind, are not of; `unknown`: or do not name."""
    here = {key: current(key) for key in keys_of(made[0])}

    def others(key: str) -> set[str | None]:
        return {record.get(key) for record in made if unknown or key in record} - {here[key]}

    return [NAMES[key] for key, now in here.items() if now and others(key)]


def lines(made: list[dict]) -> list[str]:
    """Sentences below the name of the machine; the second one where the sources have moved on."""
    said = []
    for key in keys_of(made[0]):
        values = Counter(record.get(key, "not recorded") for record in made)
        which = " and ".join(f"{value} ({count})" if len(values) > 1 else value for value, count in values.items())
        said.append(f"{NAMES[key]} {which}")
    verdict = moved(made, unknown=False)
    return [f"Made with {', '.join(said)}.", *([f"{MOVED}{', '.join(verdict)}."] if verdict else [])]


def without_verdict(text: str) -> str:
    """A document less the sentences that depend on the sources and not on records alone."""
    return re.sub(rf"^{MOVED}.*\n", "", text, flags=re.MULTILINE)
