"""python -m aot build | list | params | check: compile the variant table and embed it."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from dsl_kernels.core.variant import Variant
from dsl_kernels.variants import VARIANTS

from . import checks, compiling, embed, header, paths

Stale = list[tuple[Variant, str]]


@contextlib.contextmanager
def one_build_at_a_time() -> Iterator[None]:
    """Waits for another build, which may be making the same files or be reading them."""
    paths.LOCK.parent.mkdir(parents=True, exist_ok=True)
    with paths.LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@one_build_at_a_time()
def build(jobs: int, variants: tuple[Variant, ...], cache: Path) -> list[dict[str, Any]]:
    """Compiles what changed, over `jobs` processes, then writes the generated sources and the manifest."""
    misfits = [f"{v.name}: {why}" for v in variants for why in v.misfits]
    if misfits:
        raise SystemExit("beyond what the chip has (config.py):\n" + "\n".join(misfits))
    keys = compiling.keys(variants)
    stale = [(v, k) for v, k in zip(variants, keys, strict=True) if not compiling.cached(k, cache)]
    if stale:
        print(f"kernels: compiling {len(stale)} of {len(keys)} with {compiling.compiler_version()}", flush=True)
        compile_all(stale, jobs, cache)
    kernels = [compiling.read_facts(k, cache) for k in keys]
    embed.embed(kernels, cache, keys)
    manifest = {"compiler": compiling.compiler_version(), "kernels": kernels}
    paths.MANIFEST.write_text(json.dumps(manifest, indent=1) + "\n")
    return kernels


def compile_all(stale: Stale, jobs: int, cache: Path) -> None:
    """In parallel, target after target, since a process compiles for one; says what is done."""
    start, done = time.monotonic(), 0
    for target in dict.fromkeys(v.target for v, _ in stale):
        with ProcessPoolExecutor(max_workers=jobs) as pool:
            waiting = [pool.submit(compiling.compile_variant, v, k, cache) for v, k in stale if v.target == target]
            for future in as_completed(waiting):
                facts, done = future.result(), done + 1
                print(f"kernels: {done}/{len(stale)} {facts['name']} ({facts['bytes'] // 1024} KB)", flush=True)
    print(f"kernels: {time.monotonic() - start:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m aot", description=__doc__)
    parser.add_argument("command", choices=["build", "list", "params", "check"])
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="compiler processes (310 MB each)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="build and embed only these kernels")
    parser.add_argument("--cache", type=Path, default=paths.CACHE, help="where compiled kernels are kept")
    args = parser.parse_args()
    unknown = set(args.only or ()) - {v.name for v in VARIANTS}
    if unknown:
        parser.error(f"no such kernel: {', '.join(sorted(unknown))}")
    variants = tuple(v for v in VARIANTS if not args.only or v.name in args.only)
    if args.command == "list":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the reader of `list | head` has seen enough: no traceback
        for v in variants:
            print(f"{v.name}: {v}")
    elif args.command == "params":
        paths.PARAMS_HEADER.write_text(header.kernel_params())
    else:
        kernels = build(args.jobs, variants, args.cache.resolve())
        if args.command == "check":
            problems = [sentence for v, k in zip(variants, kernels, strict=True) for sentence in checks.problems(v, k)]
            print("\n".join(problems) or f"{len(kernels)} kernels: no spills, no stack, wgmma and TMA in place")
            return 1 if problems else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
