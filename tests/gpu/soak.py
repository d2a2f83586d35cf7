"""Ragged batches over and over, always with the same bits. Run by test_soak.py.

A process of its own, because a kernel that hangs would take every later test with it. Tens of thousands of calls,
because a deadlock that was there once did not show in fewer.
"""

from __future__ import annotations

import torch

import flashmla

REPLAYS, CALLS = 300, 100


def main() -> None:
    torch.manual_seed(0)
    for dtype, s_q, h_q in ((torch.bfloat16, 2, 16), (torch.float16, 1, 128)):
        lengths = torch.randint(1, 4096, (256,), device="cuda", dtype=torch.int32)
        lengths[::16] = torch.randint(0, 70, (16,), device="cuda", dtype=torch.int32)
        kv_cache = torch.randn(4000, 64, 1, 576, device="cuda", dtype=dtype)
        block_table = torch.randint(0, 4000, (256, 64), device="cuda", dtype=torch.int32)
        inputs = (torch.randn(256, s_q, h_q, 576, device="cuda", dtype=dtype), kv_cache, block_table, lengths)
        plan = flashmla.plan_decode(*inputs, causal=True)
        first, _ = flashmla.dense_decode(*inputs, causal=True, plan=plan)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CALLS):
                out, _ = flashmla.dense_decode(*inputs, causal=True, plan=plan)
        for replay in range(REPLAYS):
            graph.replay()
            if replay % 20 == 0:
                assert torch.equal(out, first), f"other bits in replay {replay}"
        torch.cuda.synchronize()
    print("the same bits every time")


if __name__ == "__main__":
    main()
