"""Other libraries' kernels for the same call, where they are installed. None is a dependency.

A peer takes a Problem and gives the calls to time, one a block table, with its metadata made beforehand and shared by
all of them; or, `fresh`, made in every call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

D_V = 512
Calls = list[Callable[[], object]]


def _in_bfloat16(problem: Any) -> bool:
    return problem.kv_format == "bf16" and problem.dtype == torch.bfloat16


def flashmla(problem: Any, *, fresh: bool = False) -> Calls | None:
    """DeepSeek's FlashMLA (module flash_mla)."""
    try:
        from flash_mla import flash_mla_with_kvcache, get_mla_metadata
    except ImportError:
        return None
    if not _in_bfloat16(problem) or problem.page != 64:
        return None
    shared, _ = get_mla_metadata()  # filled by the first call

    def call(table: torch.Tensor) -> Callable[[], object]:
        p = problem
        return lambda: flash_mla_with_kvcache(
            p.q, p.kv_cache, table, p.cache_seqlens, D_V, get_mla_metadata()[0] if fresh else shared, None,
            p.scale, p.causal,
        )  # fmt: skip

    return [call(table) for table in problem.tables]


def fa3(problem: Any, *, fresh: bool = False) -> Calls | None:
    """FlashAttention-3 as vLLM builds it; MLA goes through its q_v argument. FA3_LIBRARY names the extension's file."""
    path = os.environ.get("FA3_LIBRARY")
    if not path or not _in_bfloat16(problem):
        return None
    torch.ops.load_library(path)
    ops = torch.ops._vllm_fa3_C  # noqa: SLF001 - vLLM's own name
    b, s_q, h_q, _ = problem.q.shape
    flat = problem.q.view(b * s_q, h_q, 576)
    q_rope, q_latent = flat[..., D_V:].contiguous(), flat[..., :D_V].contiguous()
    k_rope, latent = problem.kv_cache[..., D_V:], problem.kv_cache[..., :D_V]
    starts = torch.arange(0, b + 1, dtype=torch.int32, device="cuda") * s_q
    longest, lengths = problem.longest, problem.cache_seqlens

    def metadata() -> object:
        return ops.get_scheduler_metadata(
            b, s_q, longest, h_q, 1, 64, D_V, torch.bfloat16, lengths, starts,
            None, None, None, None, problem.page, 0, True, -1, -1, False, 0, None, 0,
        )  # fmt: skip

    shared = metadata()
    out = torch.empty(b * s_q, h_q, D_V, dtype=torch.bfloat16, device="cuda")

    def call(table: torch.Tensor) -> Callable[[], object]:
        return lambda: ops.fwd(
            q_rope, k_rope, latent, None, None, q_latent, out, starts, None, None, None, lengths, s_q, longest, table,
            None, None, None, None, None, None, None, None, problem.scale, True, -1, -1, 0.0, True,
            metadata() if fresh else shared, 0, None, 0, None, 1, 0, None,
        )  # fmt: skip

    return [call(table) for table in problem.tables]


def vllm(problem: Any, *, fresh: bool = False) -> Calls | None:
    """vLLM's kernel for fp8 caches with one scale, of its fork of FlashMLA; VLLM_FLASHMLA_LIBRARY names the extension's
    file. q holds numbers that are codes.
    """
    path = os.environ.get("VLLM_FLASHMLA_LIBRARY")
    if not path or problem.kv_format != "fp8" or problem.page != 64:
        return None
    torch.ops.load_library(path)
    ops = torch.ops._flashmla_extension_C  # noqa: SLF001 - vLLM's own name
    p, codes = problem, torch.float8_e4m3fn
    q, kv_cache, one = p.q.to(codes), p.kv_cache.view(codes), torch.ones(1, device="cuda")

    def metadata() -> tuple[torch.Tensor, torch.Tensor]:
        return ops.get_mla_decoding_metadata_dense_fp8(p.cache_seqlens, p.s_q * p.h_q, 1)

    shared = metadata()

    def call(table: torch.Tensor) -> Callable[[], object]:
        return lambda: ops.fwd_kvcache_mla_fp8(
            q, kv_cache, D_V, p.cache_seqlens, table, p.scale, p.causal, *(metadata() if fresh else shared), one, one
        )

    return [call(table) for table in p.tables]


ALL = {"flashmla": flashmla, "fa3": fa3, "vllm": vllm}
