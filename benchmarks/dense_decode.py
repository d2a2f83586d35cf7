#!/usr/bin/env python3
"""Times dense_decode on a GPU beside the peers that are installed, checks it against float64, and records the figures.

Replays of CUDA graphs, back to back, rotating over block tables into more KV than L2 holds; a plan is made beforehand,
as the layers of a decode step share it, and combine is included. Contenders alternate round by round in one process.
A record is one JSON object a line:
  gpu driver commit digest  the machine and the kernels
  op dtype case             [batch, s_q, h_q, tokens]; with "varlen" lengths are drawn from N(tokens, tokens / 2)
  us spread                 median of a call; (max - min) / median of the rounds
  us_cold                   median of single calls after L2 was flushed, launch included
  us_planned                with a plan made in every call
  peers peers_cold          {name: us} likewise, from the same rounds
  limit_us                  max(KV bytes / read bandwidth, FLOP / rate of a spaced 8192^3 bf16 product), of this run
  host_us                   host time of asynchronous calls on a tiny problem, {what: us}
  rel_err lse_err           ||out - ref|| / ||ref|| over the whole output, largest error of lse; against float64
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "bindings" / "python"), str(HERE)]

import digest  # noqa: E402
import limits  # noqa: E402
import peers  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402

import flashmla  # noqa: E402

D_QK, D_V, PAGE = 576, 512, 64
ROTATE_BYTES = 250e6  # KV that the rotation covers at least
# batch, s_q, h_q, tokens[, varlen]
CASES = (
    (128, 1, 128, 4096), (128, 2, 128, 4096), (128, 1, 128, 8192), (64, 1, 128, 16384),
    (128, 1, 64, 4096), (128, 1, 32, 4096), (128, 1, 16, 4096), (64, 2, 16, 4096),
    (1, 1, 128, 8192), (1, 1, 128, 65536), (1, 1, 16, 131072),
    (16, 1, 128, 4096), (32, 1, 128, 4096), (4, 1, 128, 32768),
    (128, 1, 128, 4096, "varlen"), (128, 2, 128, 4096, "varlen"),
)  # fmt: skip


@dataclass
class Problem:
    """Tensors of one case; block tables into a pool that all cases share."""

    case: tuple
    dtype: torch.dtype
    pool: torch.Tensor
    scale: float = D_QK**-0.5
    tables: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        b, s_q, h_q, tokens, *varlen = self.case
        random = torch.Generator("cuda").manual_seed(b * 7 + s_q * 5 + h_q * 3 + tokens)
        lengths = torch.full((b,), tokens, dtype=torch.int32, device="cuda")
        if varlen:
            drawn = torch.randn(b, generator=random, device="cuda") * (tokens / 2) + tokens
            lengths = drawn.clamp(min=s_q).int()
        self.causal = s_q > 1
        self.cache_seqlens = lengths
        self.total, self.longest = int(lengths.sum()), int(lengths.max())
        self.q = torch.randn(b, s_q, h_q, D_QK, generator=random, device="cuda").to(self.dtype)
        self.kv_cache = self.pool.view(-1, PAGE, 1, D_QK)
        columns = -(-self.longest // PAGE)
        rotation = max(2, min(16, int(ROTATE_BYTES / (self.total * D_QK * 2)) + 1))
        blocks = self.kv_cache.shape[0]
        for _ in range(rotation):
            pages = torch.randperm(blocks, generator=random, device="cuda")
            pages = pages.repeat(-(-b * columns // blocks))[: b * columns]
            self.tables.append(pages.int().view(b, columns).contiguous())

    @property
    def flop(self) -> int:
        """Both products, over the attended tokens of each query token."""
        _, s_q, h_q, *_ = self.case
        attended = sum(
            int((self.cache_seqlens.long() - (s_q - 1 - s) * self.causal).clamp(min=0).sum()) for s in range(s_q)
        )
        return 2 * h_q * attended * (D_QK + D_V)

    @property
    def kv_bytes(self) -> int:
        return self.total * D_QK * self.pool.element_size()


def reference_errors(p: Problem, out: torch.Tensor, lse: torch.Tensor, table: torch.Tensor) -> tuple[float, float]:
    """(||out - ref|| / ||ref||, largest error of lse) against float64, request by request."""
    error = norm = lse_error = 0.0
    for i, length in enumerate(p.cache_seqlens.tolist()):
        rows = p.kv_cache[table[i, : -(-length // PAGE)].long()].reshape(-1, D_QK)[:length].double()
        logits = torch.einsum("shd,td->sht", p.q[i].double(), rows) * p.scale
        if p.causal:
            s_q = p.case[1]
            bound = length - (s_q - 1 - torch.arange(s_q, device="cuda"))
            hidden = torch.arange(length, device="cuda")[None] >= bound[:, None]
            logits.masked_fill_(hidden[:, None], -torch.inf)
        ref = torch.softmax(logits, -1) @ rows[:, :D_V]
        lse_error = max(lse_error, float((lse[i].T.double() - logits.logsumexp(-1)).abs().max()))
        error += float((out[i].double() - ref).square().sum())
        norm += float(ref.square().sum())
    return (error / norm) ** 0.5, lse_error


def host_costs(pool: torch.Tensor) -> dict:
    """Host microseconds of asynchronous calls on a problem so small that the device keeps up."""
    p = Problem((1, 1, 16, 64), torch.bfloat16, pool)
    args = (p.q, p.kv_cache, p.tables[0], p.cache_seqlens)
    plan = flashmla.plan_decode(*args)
    out, lse = flashmla.dense_decode(*args, plan=plan)
    workspace = torch.empty(flashmla.dense_decode_workspace_size(*args), dtype=torch.uint8, device="cuda")
    found = {
        "planned, all buffers given": lambda: flashmla.dense_decode(
            *args, plan=plan, out=out, lse=lse, workspace=workspace
        ),
        "nothing given": lambda: flashmla.dense_decode(*args),
        "plan_decode": lambda: flashmla.plan_decode(*args),
    }
    for name, make in peers.ALL.items():
        calls = make(p)
        if calls:
            found[name] = calls[0]
    return {name: round(timing.host_us(call), 2) for name, call in found.items()}


def measure(p: Problem, rounds: int, bandwidth: float, rate: float) -> dict:
    b, s_q, h_q, *_ = p.case
    out = torch.full((b, s_q, h_q, D_V), torch.nan, dtype=p.dtype, device="cuda")
    lse = torch.empty(b, h_q, s_q, device="cuda")
    plan = flashmla.plan_decode(p.q, p.kv_cache, p.tables[0], p.cache_seqlens, causal=p.causal)
    bytes_needed = flashmla.dense_decode_workspace_size(p.q, p.kv_cache, p.tables[0], p.cache_seqlens, causal=p.causal)
    workspace = torch.empty(bytes_needed, dtype=torch.uint8, device="cuda")

    def ours(table, plan):
        return lambda: flashmla.dense_decode(
            p.q, p.kv_cache, table, p.cache_seqlens, softmax_scale=p.scale, causal=p.causal, plan=plan,
            out=out, lse=lse, workspace=workspace,
        )  # fmt: skip

    ours(p.tables[0], plan)()
    rel_err, lse_err = reference_errors(p, out, lse, p.tables[0])
    contenders = {"ours": [ours(t, plan) for t in p.tables], "planned": [ours(t, None) for t in p.tables]}
    for name, make in peers.ALL.items():
        calls = make(p) if p.dtype == torch.bfloat16 else None
        if calls:
            contenders[name] = calls
    cold = {name: timing.cold_us(calls) for name, calls in contenders.items()}
    times = timing.alternate(contenders, cold, rounds)
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "us": round(median["ours"], 2),
        "us_cold": round(cold["ours"], 2),
        "us_planned": round(median["planned"], 2),
        "spread": round((max(times["ours"]) - min(times["ours"])) / median["ours"], 4),
        "limit_us": round(max(p.kv_bytes / bandwidth, p.flop / rate) * 1e6, 2),
        "peers": {name: round(median[name], 2) for name in median if name in peers.ALL},
        "peers_cold": {name: round(cold[name], 2) for name in cold if name in peers.ALL},
        "rel_err": float(f"{rel_err:.3g}"),
        "lse_err": float(f"{lse_err:.3g}"),
        "gbs": round(p.kv_bytes / median["ours"] / 1e3, 1),
        "tflops": round(p.flop / median["ours"] / 1e6, 1),
    }


def machine() -> dict:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]
    name, driver, power = (
        subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[0].split(", ")
    )
    return {"gpu": name, "driver": driver, "power_limit": power, "torch": torch.__version__}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", type=Path, help="append the records to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commit", default="", help="of the sources, for the record")
    parser.add_argument(
        "--case", action="append", type=lambda t: tuple(int(x) for x in t.split(",")), help="b,s_q,h_q,tokens"
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    args = parser.parse_args()
    bandwidth, rate = limits.read_bandwidth(), limits.product_rate()
    facts = {**machine(), "commit": args.commit, "digest": digest.current() or "none"}
    ceilings = {"read_gbs": round(bandwidth / 1e9, 1), "product_tflops": round(rate / 1e12, 1)}
    print(facts, ceilings, flush=True)
    dtype = getattr(torch, args.dtype)
    pool = torch.empty(17_000, PAGE, D_QK, dtype=dtype, device="cuda")
    for chunk in pool.split(1000):
        chunk.normal_()
    costs = host_costs(pool) if dtype == torch.bfloat16 else {}
    print("host us of a call:", costs, flush=True)
    for case in args.case or CASES:
        found = measure(Problem(case, dtype, pool), args.rounds, bandwidth, rate)
        record = {**facts, "op": "dense_decode", "dtype": args.dtype, "case": list(case), **found, **ceilings}
        if costs:
            record["host_us"] = costs
        others = [f"{name} {us:.1f}" for name, us in found["peers"].items()]
        print(
            f"{', '.join(map(str, case)):32} {found['us']:8.1f} us",
            f"(planned {found['us_planned']:.1f}, cold {found['us_cold']:.1f})",
            f"limit {found['limit_us']:.1f}",
            *others,
            f"error {found['rel_err']:.1e}",
            flush=True,
        )
        if args.record:
            with args.record.open("a") as f:
                f.write(json.dumps(record) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
