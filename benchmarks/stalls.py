#!/usr/bin/env python3
r"""Where the warps of a kernel wait: each role's samples by cause, and the instructions that most of them are at.

    ncu -k regex:sparse_decode -s 2 -c 1 --section SourceCounters -o FILE \
        python benchmarks/stalls.py --run v32,128,1,64,2048
    ncu -i FILE.ncu-rep --page source --print-source sass --csv > FILE.csv
    python benchmarks/stalls.py FILE.csv [--least SAMPLES]

A role begins where it takes its registers (setmaxnreg). A warp that waits for a product or for tensor cores is at HGMMA
or WARPGROUP.DEPBAR, one that waits for an mbarrier at the branch behind SYNCS. ncu holds the clock at its base rate, so
memory is nearer than it is.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

SAMPLES, EXECUTED = "Warp Stall Sampling (All Samples)", "Instructions Executed"
ROLE = "USETMAXREG"


@dataclass
class Role:
    name: str
    samples: int = 0
    executed: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    lines: list[tuple[int, int, str, str]] = field(default_factory=list)  # samples, executed, instruction, cause


def number(text: str) -> int:
    return int(float(text)) if text else 0


def roles_of(path: Path) -> list[Role]:
    """In order of the code."""
    with path.open(newline="") as file:
        next(file)  # the kernel's name
        rows = list(csv.DictReader(file))
    found = [Role("before roles")]
    for row in rows:
        source = row["Source"].strip()
        if source.startswith(ROLE):
            found.append(Role(f"role {len(found)}: {int(source.split()[-1], 16)} registers"))
        role, samples = found[-1], number(row[SAMPLES])
        stalls = [name for name in row if name.startswith("stall_") and "(" not in name]
        causes = Counter({name.removeprefix("stall_"): number(row[name]) for name in stalls})
        role.samples += samples
        role.executed += number(row[EXECUTED])
        role.causes += causes
        named = [f"{name} {count}" for name, count in causes.most_common(2) if count]
        role.lines.append((samples, number(row[EXECUTED]), source, ", ".join(named) or "none that is sampled"))
    return found


def told(role: Role, of: int, least: int) -> str:
    share = 100 * role.samples / max(of, 1)
    causes = ", ".join(f"{name} {count}" for name, count in role.causes.most_common(6))
    lines = [f"{role.name}: {share:.0f} % of samples, {role.executed} instructions; {causes}"]
    lines += [
        f"{samples:8} {executed:10}  {source[:72]:72}  {cause}"
        for samples, executed, source, cause in role.lines
        if samples >= least
    ]
    return "\n".join(lines)


def run(text: str) -> None:
    """Some calls of a case of sparse_decode.py, for ncu to look at one."""
    import torch
    from caches import Cache
    from sparse_decode import parsed
    from sparse_problem import CONTEXT, Sparse, ours

    kv_format, b, s_q, h_q, topk, _ = parsed(text)
    calls, _ = ours(Sparse(Cache(kv_format, b * CONTEXT), b, s_q, h_q, topk))
    for _ in range(4):
        calls[0]()
    torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="what ncu exported")
    parser.add_argument("--least", type=int, default=50, help="samples of an instruction that is told")
    parser.add_argument("--run", metavar="CASE", help="as --case of sparse_decode.py: make these calls")
    args = parser.parse_args()
    if (args.file is None) == (args.run is None):
        parser.error("either a file or --run CASE")
    if args.run:
        run(args.run)
        return 0
    roles = roles_of(args.file)
    total = sum(role.samples for role in roles)
    print("\n\n".join(told(role, total, args.least) for role in roles))
    return 0


if __name__ == "__main__":
    sys.exit(main())
