"""Which kernels a record was made with (one hash over the cubins), and whether it is of these sources."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "libflashmla" / "generated" / "kernels.json"
RESULTS = ROOT / "benchmarks" / "results"


def current() -> str | None:
    """Hash over the compiled kernels' sha256, in table order; None when no kernels were compiled."""
    if not MANIFEST.exists():
        return None
    kernels = json.loads(MANIFEST.read_text())["kernels"]
    return hashlib.sha256("".join(k["sha256"] for k in kernels).encode()).hexdigest()[:16]


def recorded() -> set[str]:
    """The digests of the committed GPU records."""
    found = set()
    for path in sorted(RESULTS.glob("*.jsonl")):
        found |= {record["digest"] for record in map(json.loads, path.read_text().splitlines()) if "digest" in record}
    return found


def header_line() -> str:
    """For pytest's header."""
    digest = current()
    if digest is None:
        return "kernel record: no compiled kernels to compare with"
    if digest in recorded():
        return f"kernel record: {digest}, of these sources"
    return f"kernel record: NOT of these sources (kernels {digest}, recorded {', '.join(sorted(recorded())) or 'none'})"
