"""The facts every GPU record begins with, and files of records: one JSON object a line."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

import provenance


def facts(benchmark: str, commit: str) -> dict:
    """Machine, kernels and sources. `benchmark` names the program, in the form of its file's name."""
    import torch

    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    name, driver, power = lines[0].split(", ")
    date = dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M")
    machine = {"date": date, "gpu": name, "driver": driver, "power_limit": power, "torch": torch.__version__}
    return {"benchmark": benchmark, **machine, "commit": commit, **provenance.facts(benchmark=benchmark, gpu=name)}


def read(paths: Iterable[Path]) -> list[dict]:
    """The records of the files that exist."""
    return [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]


def append(path: Path | None, record: dict) -> None:
    """Adds one line; without a path, nothing."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def best_peer(record: dict) -> float | None:
    """Microseconds of the fastest peer of the same rounds."""
    return min(record["peers"].values(), default=None)


EQUAL = 1.02  # times that differ by less count as equal


def loses(record: dict) -> bool:
    """Whether a peer is faster by more than what counts as equal."""
    best = best_peer(record)
    return best is not None and record["us"] > EQUAL * best
