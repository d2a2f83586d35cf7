"""Other libraries' token-sparse decode, where they are installed. None is a dependency.

A peer takes a Sparse and gives the calls to time, with metadata made beforehand, and a function that gives the output
of the first; or None where it cannot do it.
"""

from __future__ import annotations

import os

import torch
from sparse_problem import D_V, Sparse


def flashmla(p: Sparse):
    """DeepSeek's FlashMLA (module flash_mla): quantised caches; heads are padded to 64 or 128 beforehand, which
    is not timed.
    """
    try:
        from flash_mla import flash_mla_with_kvcache, get_mla_metadata
    except ImportError:
        return None
    if p.cache.kv_format not in ("v32", "model1"):
        return None
    padding = -p.h_q % 64
    q = torch.nn.functional.pad(p.q, (0, 0, 0, padding))
    sink = None if p.attn_sink is None else torch.nn.functional.pad(p.attn_sink, (0, padding))
    bytes_of = lambda cache: cache.pages.view(torch.float8_e4m3fn)  # noqa: E731
    shared, _ = get_mla_metadata()  # filled by the first call

    def call(i: int):
        extra = {} if p.extra is None else {
            "extra_k_cache": bytes_of(p.extra), "extra_indices_in_kvcache": p.extra_indices[i]
        }  # fmt: skip
        return lambda: flash_mla_with_kvcache(
            q, bytes_of(p.cache), None, None, D_V, shared, None, p.scale, False, True, p.indices[i],
            attn_sink=sink, **extra,
        )  # fmt: skip

    calls = [call(i) for i in range(len(p.indices))]
    return calls, lambda: calls[0]()[0][..., : p.h_q, :]


def fa3(p: Sparse):
    """FlashAttention-3 as vLLM builds it, with pages of one token: caches in bfloat16."""
    path = os.environ.get("FA3_LIBRARY")
    if not path or p.cache.kv_format != "bf16" or p.extra is not None or p.sink:
        return None
    torch.ops.load_library(path)
    ops = torch.ops._vllm_fa3_C  # noqa: SLF001 - vLLM's own name
    tokens = p.b * p.s_q
    flat = p.q.view(tokens, p.h_q, 576)
    q_rope, q_latent = flat[..., D_V:].contiguous(), flat[..., :D_V].contiguous()
    rows = p.cache.pages.view(-1, 1, 1, 576)
    starts = torch.arange(tokens + 1, dtype=torch.int32, device="cuda")
    lengths = torch.full((tokens,), p.topk, dtype=torch.int32, device="cuda")
    metadata = ops.get_scheduler_metadata(
        tokens, 1, p.topk, p.h_q, 1, 64, D_V, torch.bfloat16, lengths, starts,
        None, None, None, None, 1, 0, True, -1, -1, False, 0, None, 0,
    )  # fmt: skip
    out = torch.empty(tokens, p.h_q, D_V, dtype=torch.bfloat16, device="cuda")

    def call(i: int):
        table = p.indices[i].view(tokens, p.topk)
        return lambda: ops.fwd(
            q_rope, rows[..., D_V:], rows[..., :D_V], None, None, q_latent, out, starts, None, None, None, lengths, 1,
            p.topk, table, None, None, None, None, None, None, None, None, p.scale, True, -1, -1, 0.0, True, metadata,
            0, None, 0, None, 1, 0, None,
        )  # fmt: skip

    calls = [call(i) for i in range(len(p.indices))]

    def first():
        calls[0]()
        return out.view(p.b, p.s_q, p.h_q, D_V)

    return calls, first


ALL = {"flashmla": flashmla, "fa3": fa3}
