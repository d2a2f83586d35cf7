#!/usr/bin/env python3
"""What a call costs on the host, from Python and in C: of a tiny problem, with everything given, made or prepared.

On a GPU a call enqueues and returns; an empty kernel is launched in the same rounds, and `beyond_us` is what a call
takes more than its launches. Without one the problem runs on the CPU in one thread, its arithmetic included.
Frameworks and peers are timed where they are installed. A record is one JSON object a line:
  device library framework figure
                       what was timed: see FIGURES; library is "" or the name of one given by --library
  us best_us spread    microseconds a call: median and least of the rounds, (max - min) / median
  clock                wall, or of the calling thread alone: for the CPU of a machine that others use
  launches beyond_us   on a GPU: kernels launched, and us less as many launches
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import goals  # noqa: E402
import host_calls  # noqa: E402
import provenance  # noqa: E402
import records  # noqa: E402
from builds import another_build, named  # noqa: E402

import flashmla  # noqa: E402
from flashmla._library import ffi, lib  # noqa: E402

FRAMEWORKS = {"cpu": ("torch", "numpy", "jax"), "cuda": ("torch", "cupy", "jax")}
# What is timed, with the kernels that it launches.
FIGURES = {
    "given": 1,  # plan, out, lse and workspace given
    "made": 1,  # plan given, the rest made
    "alone": 2,  # nothing given: the call makes its schedule too
    "plan": 1,  # plan_decode; its buffer made
    "plan given": 1,  # its buffer given
    "merge": 1,  # merge_states of two states; out and lse given
    "prepared": 1,  # dense_decode, called with nothing
    "prepared q out": 1,  # with another q and out
    "prepared plan": 1,
    "entry": 1,  # flashmla_dense_decode itself: through cffi, less a cffi call of nothing
    "prepared entry": 1,  # flashmla_dense_decode_run
}
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "thread": time.thread_time}
Calls = dict[tuple[str, str, str], host_calls.Call]  # by (library, framework, figure)


def finish(device: str) -> None:
    """Waits for the default stream, which all calls use."""
    if device == "cuda":
        lib.flashmla_stream_synchronize(0, ffi.NULL)


def timed(
    calls: Calls, device: str, rounds: int, seconds: float, clock: Clock
) -> dict[tuple[str, str, str], list[float]]:
    """Microseconds of each call in every round; each round begins with another one, every second runs backwards."""
    counts = {}
    for key, call in calls.items():
        call()
        finish(device)
        start = clock()
        for _ in range(20):
            call()
        took = (clock() - start) / 20
        finish(device)
        # No more than the driver's queue takes without waiting.
        counts[key] = max(10, min(400 if device == "cuda" else 20_000, int(seconds / took)))
    times: dict[tuple[str, str, str], list[float]] = {key: [] for key in calls}
    names = list(calls)
    for i in range(rounds):
        order = names[i % len(names) :] + names[: i % len(names)]
        for key in order if i % 2 == 0 else order[::-1]:
            call, count = calls[key], counts[key]
            finish(device)
            start = clock()
            for _ in range(count):
                call()
            times[key].append((clock() - start) / count * 1e6)
            finish(device)
    return times


def facts(device: str, commit: str) -> dict[str, Any]:
    """What every record begins with."""
    if device == "cuda":
        return records.facts("host", commit) | {"cpu": cpu_name(), "device": device}
    commit = (
        commit
        or subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
        ).stdout.strip()
    )
    return {
        "benchmark": "host",
        "cpu": cpu_name(),
        "load": round(os.getloadavg()[0], 2),
        "commit": commit,
        "device": device,
        **provenance.facts(benchmark="host"),
    }


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def gpu_is_there() -> bool:
    try:
        return flashmla.info()["driver_version"] is not None and any(map(has, ("torch", "cupy")))
    except flashmla.FlashMLAError:
        return False


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def all_calls(device: str, packages: dict[str, ModuleType]) -> Calls:
    """By (library, framework, figure)."""
    found: Calls = {}
    for library, package in packages.items():
        for framework in FRAMEWORKS[device]:
            if not has(framework):
                continue
            try:
                calls = host_calls.calls_of(framework, device, package)
            except (RuntimeError, flashmla.FlashMLAError) as error:  # installed, but not for this device
                print(f"{framework}: {error}", file=sys.stderr)
                continue
            found |= {(library, framework, figure): call for figure, call in calls.items()}
        holder = "numpy" if device == "cpu" else next(name for name in ("torch", "cupy") if has(name))
        found |= {(library, "C", figure): call for figure, call in host_calls.entries(holder, device, package).items()}
    if device == "cuda":
        import empty_launch

        found["", "driver", "launch"], found["", "driver", "nothing"] = empty_launch.calls()
        if has("torch"):
            found |= {("", name, "given"): call for name, call in host_calls.peers().items()}
    return found


def figures(times: dict[tuple[str, str, str], list[float]], device: str) -> list[dict[str, Any]]:
    """What the records say of each call; a crossing of the border is taken off the C functions and the launch."""
    median = {key: statistics.median(values) for key, values in times.items()}
    launch = median.get(("", "driver", "launch"), 0.0) - median.get(("", "driver", "nothing"), 0.0)
    found = []
    for (library, framework, figure), values in times.items():
        if figure == "nothing":
            continue
        key = (library, framework, "nothing")
        us = median[library, framework, figure] - median.get(key, 0.0)
        record = {"library": library, "framework": framework, "figure": figure, "us": round(us, 2)}
        record["best_us"] = round(min(values) - min(times.get(key, [0.0])), 2)
        record["spread"] = round((max(values) - min(values)) / median[library, framework, figure], 3)
        if device == "cuda" and framework in {*FRAMEWORKS[device], "C"}:
            record["launches"] = FIGURES[figure]
            record["beyond_us"] = round(us - FIGURES[figure] * launch, 2)
        found.append(record)
    return found


def line(record: dict[str, Any], device: str) -> str:
    """For people: the figure, and the goal where there is one."""
    text = f"{record['library']:8} {record['framework']:9} {record['figure']:15} {record['us']:8.2f} us"
    text += f"  best {record['best_us']:8.2f}  spread {record['spread']:6.3f}"
    if "beyond_us" in record:
        text += f"  beyond {record['launches']} launches {record['beyond_us']:7.2f}"
    goal = goals.host_goal(device, record["framework"], record["figure"])
    if goal is not None and not record["library"]:
        text += f"  goal {goal:g}: {goals.verdict(record.get('beyond_us', record['us']), goal)}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.02, help="of a call's turn in a round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if gpu_is_there() else "cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="thread: without the time of other processes")
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument(
        "--library", action="append", type=named, default=[], metavar="NAME=PATH",
        help="another build of libflashmla.so to time in the same rounds; older ones are called the long way",
    )  # fmt: skip
    args = parser.parse_args()
    packages = {"": flashmla} | {name: another_build(path) for name, path in args.library}
    about = facts(args.device, args.commit) | {"clock": args.clock}
    print(about, flush=True)
    times = timed(all_calls(args.device, packages), args.device, args.rounds, args.seconds, CLOCKS[args.clock])
    for record in figures(times, args.device):
        print(line(record, args.device))
        records.append(args.record, about | record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
