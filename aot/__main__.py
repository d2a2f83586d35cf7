"""python -m aot build | list | params | check: compile the variant table and embed it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from dsl_kernels.budget import fits
from dsl_kernels.variants import VARIANTS

from . import checks, compile, embed, paths


def build(jobs: int) -> list[dict[str, Any]]:
    """Compiles what changed, over `jobs` processes, then writes the generated sources and the manifest."""
    misfits = [v.name for v in VARIANTS if not fits(v)]
    if misfits:
        raise SystemExit(f"over the budget of an SM (dsl_kernels/budget.py): {', '.join(misfits)}")
    source, compiler = compile.source_digest(), compile.compiler_version()
    keys = [compile.key_of(v, source, compiler) for v in VARIANTS]
    fresh = [not (paths.CACHE / f"{k}.json").exists() for k in keys]
    start = time.monotonic()
    if any(fresh):
        print(f"kernels: compiling {sum(fresh)} of {len(keys)} with {compiler}", flush=True)
    kernels = []
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        results = pool.map(compile.compile_variant, VARIANTS, keys, [paths.CACHE] * len(keys)) if any(fresh) else (
            compile.compile_variant(v, k, paths.CACHE) for v, k in zip(VARIANTS, keys, strict=True)
        )
        for done, facts in enumerate(results, 1):
            kernels.append(facts)
            if fresh[done - 1]:
                print(f"kernels: {done}/{len(keys)} {facts['name']} ({facts['bytes'] // 1024} KB)", flush=True)
    if any(fresh):
        print(f"kernels: {time.monotonic() - start:.0f} s", flush=True)
    embed.embed(kernels, paths.CACHE, keys)
    manifest = {"compiler": compiler, "source": source, "kernels": kernels}
    text = json.dumps(manifest, indent=1) + "\n"
    (paths.GENERATED / "kernels.json").write_text(text)
    return kernels


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m aot", description=__doc__)
    parser.add_argument("command", choices=["build", "list", "params", "check"])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="compiler processes (310 MB each)")
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
