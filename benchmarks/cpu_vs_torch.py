#!/usr/bin/env python3
"""Times the CPU backend beside the same attention written with PyTorch float32 matrix products.

Both get the same bfloat16 tensors, page table and threads, in alternating rounds; medians are shown. PyTorch gathers
the pages, converts them to float32 and does matmul, softmax, matmul. With --record the figures go to
results/cpu/dense_decode.jsonl, one JSON object a line, unless other processes take cores from both sides. Needs the
extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results" / "cpu" / "dense_decode.jsonl"
sys.path.insert(0, str(ROOT / "bindings" / "python"))

import cpu_peak  # noqa: E402
import provenance  # noqa: E402
import torch  # noqa: E402

import flashmla  # noqa: E402
from flashmla._library import ffi, lib  # noqa: E402

D_QK, D_V, PAGE = 576, 512, 64
MAX_LOAD = 0.5  # of other processes, in cores
# b, s_q, h_q, tokens
CASES = ((4, 1, 128, 4096), (1, 1, 128, 4096), (16, 1, 16, 4096), (4, 2, 128, 1024), (4, 1, 1, 8192))


def make_inputs(case, seed=0):
    """N(0, 1) bfloat16 tensors on scattered pages."""
    b, s_q, h_q, tokens = case
    random = torch.Generator().manual_seed(seed)
    pages = -(-tokens // PAGE)
    q = torch.randn(b, s_q, h_q, D_QK, generator=random).bfloat16()
    kv_cache = torch.randn(b * pages, PAGE, 1, D_QK, generator=random).bfloat16()
    block_table = torch.randperm(b * pages, generator=random).int().view(b, pages)
    return q, kv_cache, block_table, torch.full((b,), tokens, dtype=torch.int32)


def attend_with_torch(q, kv_cache, block_table, cache_seqlens, dtype=torch.float32):
    """The same attention, for requests of one length and one KV head."""
    b, s_q, h_q, _ = q.shape
    keys = kv_cache[block_table.long()].view(b, -1, D_QK)[:, : int(cache_seqlens[0])].to(dtype)
    logits = q.to(dtype).view(b, s_q * h_q, D_QK) @ keys.transpose(1, 2) * D_QK**-0.5
    out = logits.softmax(-1) @ keys[..., :D_V]
    return out.view(b, s_q, h_q, D_V).to(q.dtype if dtype == torch.float32 else dtype)


def median_times(functions, rounds):
    """Median seconds of each function; the rounds alternate, so that a change of clock or load meets all of them."""
    times = [[] for _ in functions]
    for _ in range(rounds):
        for function, record in zip(functions, times, strict=True):
            time.sleep(0.02)  # the OpenMP threads of the one before spin for some milliseconds
            start = time.perf_counter()
            function()
            record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in times]


def measure(case, threads, rounds):
    q, kv_cache, block_table, cache_seqlens = inputs = make_inputs(case)
    b, s_q, h_q, tokens = case
    out = torch.empty(b, s_q, h_q, D_V, dtype=q.dtype)
    lse = torch.empty(b, h_q, s_q)

    def ours():
        flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens, out=out, lse=lse, num_threads=threads)

    def theirs():
        attend_with_torch(*inputs)

    ours()
    theirs()
    us, torch_us = (1e6 * seconds for seconds in median_times([ours, theirs], rounds))
    exact = attend_with_torch(*inputs, dtype=torch.float64)
    flop = 2 * (D_QK + D_V) * b * s_q * h_q * tokens
    return {
        "case": list(case),
        "us": round(us, 1),
        "peers": {"torch_float32": round(torch_us, 1)},
        "gflops": round(flop / us / 1e3, 1),
        "rel_err": float((out.double() - exact).norm() / exact.norm()),
    }


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--record", action="store_true", help="append the figures to results/cpu/dense_decode.jsonl")
    parser.add_argument("--force", action="store_true", help="record on a loaded machine too")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # of the last minute, before this program adds to it
    if arguments.record and load > MAX_LOAD and not arguments.force:
        parser.error(f"load is {load:.2f}, a record needs at most {MAX_LOAD}: wait for other work, or give --force")
    torch.set_num_threads(arguments.threads)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = {
        "cpu": cpu_name(),
        "threads": arguments.threads,
        "isa": ffi.string(lib.flashmla_cpu_isa()).decode(),
        "load": round(load, 2),
        "peak_gflops": round(cpu_peak.gflops(arguments.threads), 1),
        "torch": torch.__version__,
        "commit": commit,
        **provenance.facts(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'b, s_q, h_q, tokens':24}{'ours ms':>10}{'torch ms':>10}{'ratio':>8}{'GFLOP/s':>9}{'rel_err':>10}")
    for case in CASES:
        result = measure(case, arguments.threads, arguments.rounds)
        theirs = result["peers"]["torch_float32"]
        print(
            f"{case!s:24}{result['us'] / 1e3:10.2f}{theirs / 1e3:10.2f}{theirs / result['us']:8.2f}"
            f"{result['gflops']:9.0f}{result['rel_err']:10.1e}"
        )
        if arguments.record:
            RECORDS.parent.mkdir(parents=True, exist_ok=True)
            with RECORDS.open("a") as file:
                file.write(json.dumps(machine | {"op": "dense_decode", "dtype": "bfloat16"} | result) + "\n")


if __name__ == "__main__":
    main()
