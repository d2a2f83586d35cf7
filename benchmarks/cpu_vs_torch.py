#!/usr/bin/env python3
"""Times the CPU backend beside the same attention written with PyTorch matrix products, in float32 and in bfloat16.

All get the same bfloat16 tensors, page table and threads, in alternating rounds; medians are shown. PyTorch gathers the
pages, converts them where it works in float32, and does matmul, softmax, matmul. Beside them stand this machine's rate
of a bfloat16 product in PyTorch and its read bandwidth, measured in the same run, and the goals: LEAD times the speed
of PyTorch's better form, for MANY_HEADS at least RATE of the product's rate, for FEW_HEADS at least BANDWIDTH of the
read bandwidth (or RATE, where a CPU's products are too slow for its memory). With --record the figures go to
results/cpu/dense_decode.jsonl or the file that is named, one JSON object a line, unless other processes take cores from
all sides. FLASHMLA_CPU_ISA forces an instruction set. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from functools import partial
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
PEERS = {"torch_float32": torch.float32, "torch_bfloat16": torch.bfloat16}
MAX_LOAD = 0.5  # of other processes, in cores
# b, s_q, h_q, tokens
CASES = (
    (4, 1, 128, 4096),
    (1, 1, 128, 4096),
    (4, 2, 128, 1024),
    (16, 1, 16, 4096),
    (1, 1, 16, 32768),
    (64, 1, 16, 1024),
    (4, 1, 1, 8192),
)
LEAD, RATE, BANDWIDTH, MANY_HEADS, FEW_HEADS = 1.3, 0.5, 0.8, 64, 16
WARM_SECONDS = 0.05
PRODUCT = 2048  # rows, columns and depth of the product whose rate is measured
READ_BYTES = 1 << 30  # more than any cache holds


def best_seconds(function, repeats):
    """The shortest time of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def product_gflops():
    """10^9 operations a second of a bfloat16 product."""
    left, right = torch.randn(2, PRODUCT, PRODUCT).bfloat16()
    return 2 * PRODUCT**3 / best_seconds(lambda: left @ right, 20) / 1e9


def read_gbs():
    """10^9 bytes a second that a sum reads from memory."""
    values = torch.ones(READ_BYTES // 4)
    return READ_BYTES / best_seconds(values.sum, 10) / 1e9


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
    """Median seconds of each function; the rounds alternate, so that a change of clock or load meets all of them. Each
    is called for a while before it is timed: layers follow one another, so threads are awake and clocks are up.
    """
    times = [[] for _ in functions]
    for _ in range(rounds):
        for function, record in zip(functions, times, strict=True):
            time.sleep(0.02)  # the OpenMP threads of the one before spin for some milliseconds
            warm = time.perf_counter() + WARM_SECONDS
            while time.perf_counter() < warm:
                function()
            record.append(best_seconds(function, 1))
    return [statistics.median(record) for record in times]


def measure(case, threads, rounds):
    q, kv_cache, block_table, cache_seqlens = inputs = make_inputs(case)
    b, s_q, h_q, tokens = case
    out = torch.empty(b, s_q, h_q, D_V, dtype=q.dtype)
    lse = torch.empty(b, h_q, s_q)

    def ours():
        flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens, out=out, lse=lse, num_threads=threads)

    contenders = [ours, *(partial(attend_with_torch, *inputs, dtype=dtype) for dtype in PEERS.values())]
    for contender in contenders:
        contender()
    us, *theirs = (1e6 * seconds for seconds in median_times(contenders, rounds))
    exact = attend_with_torch(*inputs, dtype=torch.float64)
    flop = 2 * (D_QK + D_V) * b * s_q * h_q * tokens
    return {
        "case": list(case),
        "us": round(us, 1),
        "peers": {name: round(time, 1) for name, time in zip(PEERS, theirs, strict=True)},
        "gflops": round(flop / us / 1e3, 1),
        "gbs": round(2 * D_QK * b * tokens / us / 1e3, 2),
        "rel_err": float((out.double() - exact).norm() / exact.norm()),
    }


def verdicts(result, machine):
    """What of the goals a case meets: figure, goal."""
    h_q = result["case"][2]
    rate, bandwidth = result["gflops"] / machine["product_gflops"], result["gbs"] / machine["read_gbs"]
    found = [("speed-up", min(result["peers"].values()) / result["us"], LEAD)]
    if h_q >= MANY_HEADS:
        found.append(("of the product's rate", rate, RATE))
    elif h_q == FEW_HEADS:  # by whichever sets the pace
        both = ("of the bandwidth", bandwidth, BANDWIDTH), ("of the product's rate", rate, RATE)
        found.append(max(both, key=lambda goal: goal[1] / goal[2]))
    return found


def cpu_name():
    """As the CPU names itself, and its generation, which the name may not tell."""
    text = Path("/proc/cpuinfo").read_text()
    found = [re.search(rf"^{field}\s*: (.*)$", text, re.MULTILINE) for field in ("model name", "cpu family", "model")]
    if not all(found):
        return platform.machine()
    name, family, model = (match.group(1).strip() for match in found)
    return f"{name} (family {family}, model {model})"


def commit_of_tree():
    """'' where there is no git or no repository."""
    if shutil.which("git") is None:
        return ""
    told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return told.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--record", nargs="?", type=Path, const=RECORDS, metavar="FILE", help="append the figures")
    parser.add_argument("--force", action="store_true", help="record on a loaded machine too")
    parser.add_argument("--commit", help="of the sources, for the record; else git is asked")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # of the last minute, before this program adds to it
    if arguments.record and load > MAX_LOAD and not arguments.force:
        parser.error(f"load is {load:.2f}, a record needs at most {MAX_LOAD}: wait for other work, or give --force")
    torch.set_num_threads(arguments.threads)
    machine = {
        "cpu": cpu_name(),
        "threads": arguments.threads,
        "isa": ffi.string(lib.flashmla_cpu_isa()).decode(),
        "load": round(load, 2),
        "product_gflops": round(product_gflops(), 1),
        "read_gbs": round(read_gbs(), 1),
        "torch": torch.__version__,
        "commit": arguments.commit or commit_of_tree(),
        **provenance.facts(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if cpu_peak.can_compile():
        machine["peak_gflops"] = round(cpu_peak.gflops(arguments.threads), 1)
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    columns = "".join(f"{name.removeprefix('torch_') + ' ms':>13}" for name in PEERS)
    print(f"{'b, s_q, h_q, tokens':24}{'ours ms':>10}{columns}{'GFLOP/s':>9}{'GB/s':>7}{'rel_err':>10}  goals")
    for case in CASES:
        result = measure(case, arguments.threads, arguments.rounds)
        peers = "".join(f"{us / 1e3:13.2f}" for us in result["peers"].values())
        goals = ", ".join(f"{value:.2f} {name} ({goal})" for name, value, goal in verdicts(result, machine))
        print(
            f"{case!s:24}{result['us'] / 1e3:10.2f}{peers}{result['gflops']:9.0f}{result['gbs']:7.1f}"
            f"{result['rel_err']:10.1e}  {goals}",
            flush=True,
        )
        if arguments.record:
            arguments.record.parent.mkdir(parents=True, exist_ok=True)
            with arguments.record.open("a") as file:
                file.write(json.dumps(machine | {"op": "dense_decode", "dtype": "bfloat16"} | result) + "\n")


if __name__ == "__main__":
    main()
