"""Decode steps with PyTorch: one plan for the layers, outputs in place, the whole step replayed as a CUDA graph.

Runs on a Hopper GPU, else on the CPU backend without the graph.
"""

import torch

import flashmla

on_gpu = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
device = "cuda" if on_gpu else "cpu"
batch, heads, layers, num_blocks = 4, 16, 3, 64
torch.manual_seed(0)
kv_caches = [torch.randn(num_blocks, 64, 1, 576, dtype=torch.bfloat16, device=device) for _ in range(layers)]
q = torch.randn(batch, 1, heads, 576, dtype=torch.bfloat16, device=device)
block_table = torch.arange(num_blocks, dtype=torch.int32, device=device).reshape(batch, -1)
cache_seqlens = torch.tensor([1, 64, 500, 1000], dtype=torch.int32, device=device)
out = torch.empty(layers, batch, 1, heads, 512, dtype=torch.bfloat16, device=device)
lse = torch.empty(layers, batch, heads, 1, device=device)


def step() -> None:
    plan = flashmla.plan_decode(q, kv_caches[0], block_table, cache_seqlens)
    for layer, kv_cache in enumerate(kv_caches):
        flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens, plan=plan, out=out[layer], lse=lse[layer])


step()
print("lse of the first layer and head:", lse[0, :, 0, 0].tolist())
if on_gpu:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    cache_seqlens += 1  # planning is in the graph: a replay sees the new lengths
    graph.replay()
    print("one token later:                ", lse[0, :, 0, 0].tolist())
