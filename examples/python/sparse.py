"""A step of DeepSeek's sparse attention with PyTorch: new tokens go into an fp8 cache, an indexer scores all cached
tokens of each request, and attention is over the best of them.

Runs on a Hopper GPU, else on the CPU backend. The indexer is the paper's (DeepSeek-V3.2-Exp, section 1), with weights
that nobody trained.
"""

import torch

import flashmla

on_gpu = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
device = "cuda" if on_gpu else "cpu"
batch, heads, num_blocks, page_size, topk = 4, 16, 64, 64, 256
index_heads, index_columns = 8, 32
torch.manual_seed(0)
if on_gpu:
    torch.set_default_device(device)

kv_cache = torch.zeros(num_blocks, page_size, 1, 656, dtype=torch.uint8)  # "v32": 512 fp8 + 4 scales + 64 bf16
index_cache = torch.zeros(num_blocks * page_size, index_columns)  # the indexer's keys, by slot
block_table = torch.arange(num_blocks).reshape(batch, -1)  # 1024 tokens a request at most
lengths = torch.tensor([5, 64, 500, 1000])


def slots_of(positions: torch.Tensor) -> torch.Tensor:
    """(batch, n) positions of requests to slots of the cache."""
    return block_table.gather(1, positions // page_size) * page_size + positions % page_size


def append(latent: torch.Tensor, keys: torch.Tensor, slots: torch.Tensor) -> None:
    """Tokens (n, 576) with their keys (n, index_columns) into both caches."""
    flashmla.append_kv(kv_cache, latent[:, :512], latent[:, 512:], slots, kv_format="v32")
    index_cache[slots] = keys


def select(index_q: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(batch, 1, topk) slots with the best scores, sums of weight * relu(<q, k>) over index heads; -1 where there are
    fewer tokens.
    """
    positions = torch.arange(block_table.shape[1] * page_size).expand(batch, -1)
    slots = slots_of(positions)
    scores = torch.einsum("bh,bhn->bn", weights, torch.einsum("bhd,bnd->bhn", index_q, index_cache[slots]).relu())
    scores = scores.masked_fill(positions >= lengths[:, None], -torch.inf)
    best, at = scores.topk(topk)
    return slots.gather(1, at).masked_fill(best == -torch.inf, -1)[:, None]


# What a prefill would have left behind.
for request, length in enumerate(lengths.tolist()):
    slots = slots_of(torch.arange(length).expand(batch, -1))[request]
    append(torch.randn(length, 576).bfloat16(), torch.randn(length, index_columns), slots)

# A decode step: one new token a request.
append(torch.randn(batch, 576).bfloat16(), torch.randn(batch, index_columns), slots_of(lengths[:, None])[:, 0])
lengths += 1
q = torch.randn(batch, 1, heads, 576).bfloat16()
indices = select(torch.randn(batch, index_heads, index_columns), torch.rand(batch, index_heads))
plan = flashmla.plan_sparse_decode(q, indices, kv_format="v32")  # which all layers of the step share
out, lse = flashmla.sparse_decode(q, kv_cache, indices, kv_format="v32", plan=plan, out_dtype=torch.float32)
print("attended:", (indices >= 0).sum(-1).flatten().tolist(), "of", lengths.tolist(), "tokens")

# The same attention written with PyTorch.
rows = flashmla.dequantize_kv(kv_cache, kv_format="v32").float()
for request in range(batch):
    keys = rows[indices[request, 0][indices[request, 0] >= 0]]
    weights = (q[request, 0].float() @ keys.T * 576**-0.5).softmax(-1)
    error = (out[request, 0] - weights @ keys[:, :512]).norm() / out[request, 0].norm()
    print(f"request {request}: lse of the first head {lse[request, 0, 0]:.3f}, difference {error:.1e}")
    assert error < 3e-3
