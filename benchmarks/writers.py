"""Writers and readers of the KV cache beside the copy ceiling: time a call, and the share of a copy of as many bytes.

    python benchmarks/writers.py [--record FILE] [--commit HASH] [--operation append_kv] [--format v32] [--rows 65536]

PyTorch's copy reads half of the bytes that a call reads and writes, and writes the other half. Calls rotate over sets
of tensors, several times an L2 in all but for few rows, and stand in a CUDA graph one behind another; rounds alternate
with those of the copy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import records
import timing
import torch
from caches import FORMATS, PAGE_SIZE

import flashmla

OPERATIONS = ("append_kv", "quantize_kv", "gather_kv", "dequantize_kv")
ROWS = (128, 512, 2048, 8192, 16_384, 65_536)
ROPE = 64
CONTEXT = 4096  # tokens of a request that are gathered
APART_BYTES = 256 << 20  # of all sets together: several times an L2
MOST_SETS = 64
LEAST_SHARE, MOST_US = 0.85, 4.0  # goals at 65,536 and at 128 rows
Call = Callable[[], object]


class Tensors:
    """Those of one set: rows in bfloat16, a cache whose pages they fill in random order."""

    def __init__(self, kv_format: str, rows: int) -> None:
        columns, token_bytes = FORMATS[kv_format]
        self.kv_format, self.rows = kv_format, rows
        self.source = torch.randn(rows, columns, device="cuda").bfloat16()
        self.latent, self.rope = (part.contiguous() for part in self.source.split([columns - ROPE, ROPE], 1))
        pages = -(-rows // PAGE_SIZE)
        bf16 = kv_format == "bf16"
        shape = (pages, PAGE_SIZE, 1, columns if bf16 else token_bytes)
        self.cache = torch.zeros(shape, dtype=torch.bfloat16 if bf16 else torch.uint8, device="cuda")
        self.slots = torch.randperm(rows, device="cuda")
        requests = max(1, rows // CONTEXT)
        self.offsets = torch.linspace(0, rows, requests + 1, device="cuda").int()
        self.table = torch.randperm(pages, device="cuda").int()[: requests * (pages // requests)].view(requests, -1)
        flashmla.append_kv(self.cache, self.source, None, self.slots, kv_format=kv_format)

    def call(self, operation: str) -> Call:
        options = {"kv_format": self.kv_format}
        if operation == "append_kv":
            return lambda: flashmla.append_kv(self.cache, self.latent, self.rope, self.slots, **options)
        if operation == "quantize_kv":
            return lambda: flashmla.quantize_kv(self.latent, self.rope, out=self.cache, **options)
        if operation == "gather_kv":
            return lambda: flashmla.gather_kv(self.cache, self.table, self.offsets, out=self.source, **options)
        return lambda: flashmla.dequantize_kv(self.cache, out=self.source, **options)


def measure(operation: str, kv_format: str, rows: int, rounds: int) -> dict:
    """Microseconds of the operation and of the copy, in alternating rounds."""
    columns, token_bytes = FORMATS[kv_format]
    traffic = rows * (2 * columns + token_bytes)
    sets = max(2, min(MOST_SETS, -(-APART_BYTES // traffic)))
    calls = [Tensors(kv_format, rows).call(operation) for _ in range(sets)]
    ends = [torch.empty(2, traffic // 2, dtype=torch.uint8, device="cuda") for _ in range(sets)]
    copies = [lambda end=end: end[1].copy_(end[0]) for end in ends]
    graphs = {"ours": timing.Replays(calls), "copy": timing.Replays(copies)}
    found = timing.medians(timing.alternate(graphs, rounds))
    return {"us": found["ours"], "copy_us": found["copy"], "bytes": traffic, "share": found["copy"] / found["ours"]}


def verdict(rows: int, found: dict) -> str:
    """Whether a goal is reached, where there is one."""
    if rows == max(ROWS):
        return "reached" if found["share"] >= LEAST_SHARE else f"below {LEAST_SHARE:.0%}"
    if rows == min(ROWS):
        return "reached" if found["us"] <= MOST_US else f"above {MOST_US} us"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument("--operation", choices=OPERATIONS, action="append")
    parser.add_argument("--format", choices=FORMATS, action="append")
    parser.add_argument("--rows", type=int, action="append")
    args = parser.parse_args()
    facts = records.facts("writers", args.commit)
    print(facts, flush=True)
    for operation in args.operation or OPERATIONS:
        for kv_format in args.format or FORMATS:
            if operation == "quantize_kv" and kv_format == "bf16":
                continue
            for rows in args.rows or ROWS:
                found = measure(operation, kv_format, rows, args.rounds)
                records.append(args.record, {**facts, "op": operation, "kv_format": kv_format, "rows": rows, **found})
                print(
                    f"{operation:14} {kv_format:9} {rows:6} rows {found['us']:8.2f} us,",
                    f"copy {found['copy_us']:8.2f} us,",
                    f"share {found['share']:.2f} {verdict(rows, found)}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
