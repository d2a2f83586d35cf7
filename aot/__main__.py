"""python -m aot build | list | params | check: compile the variant table and embed it."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from dsl_kernels.budget import fits
from dsl_kernels.variants import VARIANTS, Variant

from . import checks, compiling, embed, paths


@contextlib.contextmanager
def one_build_at_a_time() -> Iterator[None]:
    """Waits for another build, which may be making the same files or be reading them."""
    paths.LOCK.parent.mkdir(parents=True, exist_ok=True)
    with paths.LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@one_build_at_a_time()
def build(jobs: int) -> list[dict[str, Any]]:
    """Compiles what changed, over `jobs` processes, then writes the generated sources and the manifest."""
    misfits = [v.name for v in VARIANTS if not fits(v)]
    if misfits:
        raise SystemExit(f"over the budget of an SM (dsl_kernels/budget.py): {', '.join(misfits)}")
    source, compiler = compiling.source_digest(), compiling.compiler_version()
    keys = [compiling.key_of(v, source, compiler) for v in VARIANTS]
    stale = [(v, k) for v, k in zip(VARIANTS, keys, strict=True) if not compiling.cached(k, paths.CACHE)]
    if stale:
        print(f"kernels: compiling {len(stale)} of {len(keys)} with {compiler}", flush=True)
        compile_all(stale, jobs)
    kernels = [compiling.read_facts(k, paths.CACHE) for k in keys]
    embed.embed(kernels, paths.CACHE, keys)
    manifest = {"compiler": compiler, "source": source, "kernels": kernels}
    paths.MANIFEST.write_text(json.dumps(manifest, indent=1) + "\n")
    return kernels


def compile_all(stale: list[tuple[Variant, str]], jobs: int) -> None:
    """In parallel; says what is done."""
    start = time.monotonic()
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        waiting = {pool.submit(compiling.compile_variant, v, k, paths.CACHE): v for v, k in stale}
        for done, future in enumerate(as_completed(waiting), 1):
            facts = future.result()
            print(f"kernels: {done}/{len(stale)} {facts['name']} ({facts['bytes'] // 1024} KB)", flush=True)
    print(f"kernels: {time.monotonic() - start:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m aot", description=__doc__)
    parser.add_argument("command", choices=["build", "list", "params", "check"])
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="compiler processes (310 MB each)"
    )
    args = parser.parse_args()
    if args.command == "list":
        for v in VARIANTS:
            print(v)
    elif args.command == "params":
        paths.PARAMS_HEADER.write_text(embed.params_header())
    else:
        kernels = build(args.jobs)
        if args.command == "check":
            problems = checks.problems(kernels)
            print("\n".join(problems) or f"{len(kernels)} kernels: no spills, no stack, wgmma and TMA in place")
            return 1 if problems else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
