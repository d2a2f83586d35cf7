"""Caches in any format, filled with random tokens."""

from __future__ import annotations

import torch
from problem import DEVICE

import flashmla

FORMATS = {
    "bf16": (576, 1152),
    "v32": (576, 656),
    "v32_nope": (512, 528),
    "model1": (512, 584),
    "v41": (512, 528),
    "fp8": (576, 576),
}
"""Columns and bytes of a token."""
PAGE_SIZE = 64
PAGE_BYTES = {"model1": 576, "v41": 512}  # a page is a multiple of so many
CHUNK = 1 << 18  # rows


class Cache:
    """A pool of random tokens in a format: values of N(mean, 1 / 4)."""

    dtype = torch.bfloat16  # of rows, and of q

    def __init__(self, kv_format: str, tokens: int, mean: float = 0.0) -> None:
        self.kv_format, self.tokens = kv_format, tokens
        self.d_qk, self.token_bytes = FORMATS[kv_format]
        blocks, quantises = tokens // PAGE_SIZE, kv_format != "bf16"
        row = self.token_bytes if quantises else self.d_qk
        page = PAGE_SIZE * row
        page += -page % PAGE_BYTES.get(kv_format, 1)
        dtype = torch.uint8 if quantises else self.dtype
        pool = torch.zeros(blocks, page, dtype=dtype, device=DEVICE)
        self.pages = pool.as_strided((blocks, PAGE_SIZE, 1, row), (page, row, row, 1))
        generator = torch.Generator(DEVICE).manual_seed(1)
        for begin in range(0, tokens, CHUNK):
            count = min(CHUNK, tokens - begin)
            rows = torch.randn(count, self.d_qk, generator=generator, device=DEVICE).mul_(0.5).add_(mean)
            slots = torch.arange(begin, begin + count, device=DEVICE)
            flashmla.append_kv(self.pages, rows.to(self.dtype), None, slots, kv_format=kv_format)

    def rows(self, slots: torch.Tensor) -> torch.Tensor:
        """Tokens as float32; those of slots outside are zeros."""
        table = slots.clamp(0, self.tokens - 1)
        blocks, places = table // PAGE_SIZE, table % PAGE_SIZE
        pages, where = blocks.unique(return_inverse=True)
        out = torch.empty(len(pages) * PAGE_SIZE, self.d_qk, dtype=self.dtype, device=DEVICE)
        offsets = torch.tensor([0, len(out)], dtype=torch.int32, device=DEVICE)
        flashmla.gather_kv(self.pages, pages.int()[None], offsets, out=out, kv_format=self.kv_format)
        return out[where * PAGE_SIZE + places].float()
