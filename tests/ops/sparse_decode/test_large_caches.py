"""Slots on both sides of 2^31 and 2^32 bytes of a cache, and its last one."""

from __future__ import annotations

import numpy as np
import pytest

import flashmla
from ops.append_kv import oracle as formats
from ops.append_kv.strategies import FORMATS
from ops.append_kv.test_gpu_caches import room  # noqa: F401 - a fixture

GIGABYTE = 2**30


def shape_of(kv_format: str) -> tuple[int, int]:
    """(bytes of a token, columns)"""
    fmt = formats.FORMATS.get(kv_format)
    return (fmt.token_bytes, fmt.columns) if fmt else (2 * 576, 576)


def places_of(num_blocks: int, page_bytes: int) -> np.ndarray:
    pages = [0, 2**31 // page_bytes, 2**32 // page_bytes, num_blocks - 1]
    return np.array([64 * page + row for page in pages for row in (0, 63)])


@pytest.mark.parametrize("kv_format", FORMATS)
def test_on_the_cpu(kv_format, tmp_path):
    """In a file with holes."""
    token_bytes, columns = shape_of(kv_format)
    num_blocks = (2**32 + 2**28) // (64 * token_bytes)
    quantised = kv_format in formats.FORMATS
    last, kind = (token_bytes, np.uint8) if quantised else (columns, np.float16)
    cache = np.memmap(tmp_path / "cache", kind, "w+", shape=(num_blocks, 64, 1, last)).view(np.ndarray)
    slots = places_of(num_blocks, 64 * token_bytes)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = ml_dtypes.bfloat16 if quantised else np.float16
    draw = np.random.default_rng(1)
    latent = draw.standard_normal((len(slots), columns)).astype(dtype)
    q = draw.standard_normal((1, 2, 16, columns)).astype(dtype)
    flashmla.append_kv(cache, latent, None, slots, kv_format=kv_format)
    small = np.zeros((1, 64, 1, last), kind)
    near = np.arange(len(slots))
    flashmla.append_kv(small, latent, None, near, kv_format=kv_format)
    indices = np.broadcast_to(slots, (1, 2, len(slots)))
    found = flashmla.sparse_decode(q, cache, indices, kv_format=kv_format)
    wanted = flashmla.sparse_decode(q, small, np.broadcast_to(near, indices.shape), kv_format=kv_format)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kv_format", ["bf16", *formats.SCALED])
def test_on_a_gpu(room, kv_format):  # noqa: F811 - the fixture
    import torch

    token_bytes, columns = shape_of(kv_format)
    num_blocks = (2**32 + 2**28) // (64 * token_bytes)
    room(num_blocks * 64 * token_bytes + GIGABYTE)
    quantised = kv_format in formats.FORMATS
    facts = {"dtype": torch.uint8 if quantised else torch.bfloat16, "device": "cuda"}
    cache, small = (torch.zeros(n, 64, 1, token_bytes if quantised else columns, **facts) for n in (num_blocks, 1))
    slots = torch.from_numpy(places_of(num_blocks, 64 * token_bytes)).cuda()
    latent = torch.randn(len(slots), columns, device="cuda").bfloat16()
    q = torch.randn(1, 2, 64, columns, device="cuda").bfloat16()
    near = torch.arange(len(slots), device="cuda")
    flashmla.append_kv(cache, latent, None, slots, kv_format=kv_format)
    flashmla.append_kv(small, latent, None, near, kv_format=kv_format)
    indices = slots.expand(1, 2, -1)
    found = flashmla.sparse_decode(q, cache, indices, kv_format=kv_format)
    wanted = flashmla.sparse_decode(q, small, near.expand(1, 2, -1), kv_format=kv_format)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
