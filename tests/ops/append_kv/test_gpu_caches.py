"""Writers and readers on a GPU: CUDA graphs, caches and rows of more than 2^31 bytes."""

from __future__ import annotations

import pytest

import flashmla
from ops.append_kv import oracle

torch = pytest.importorskip("torch")

GIGABYTE = 2**30
FORMATS = ("bf16", *oracle.FORMATS)


def make_cache(kv_format: str, num_blocks: int, page_size: int = 64) -> torch.Tensor:
    if kv_format == "bf16":
        return torch.zeros(num_blocks, page_size, 1, 576, dtype=torch.bfloat16, device="cuda")
    size = oracle.FORMATS[kv_format].token_bytes
    return torch.zeros(num_blocks, page_size, 1, size, dtype=torch.uint8, device="cuda")


def columns_of(kv_format: str) -> int:
    return oracle.FORMATS[kv_format].columns if kv_format != "bf16" else 576


@pytest.fixture
def room(gpu):  # noqa: ARG001 - which may skip
    """Skips where so many bytes are not free."""

    def check(needed: int) -> None:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        if free < needed + GIGABYTE:
            pytest.skip(f"{free / GIGABYTE:.1f} GB of GPU memory are free, {needed / GIGABYTE + 1:.1f} are needed")

    yield check
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kv_format", FORMATS)
@pytest.mark.parametrize("count", [100, 3000])
def test_a_captured_write_takes_new_tokens_and_slots(kv_format, count):
    draw = torch.Generator("cuda").manual_seed(1)
    latent = torch.randn(count, columns_of(kv_format), device="cuda", generator=draw).bfloat16()
    slots = torch.arange(count, device="cuda")
    cache = make_cache(kv_format, count)
    prepared = flashmla.prepare(flashmla.append_kv, cache, latent, None, slots, kv_format=kv_format)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        prepared()
    for turn in range(3):
        latent.copy_(torch.randn(latent.shape, device="cuda", generator=draw))
        slots.copy_(torch.randperm(64 * count, device="cuda", generator=draw)[:count])
        slots[::7] = slots[turn]
        shared = int(slots[turn]) // 64  # whose page holds any of the tokens of one slot
        cache.zero_()
        graph.replay()
        found = cache.clone()
        cache.zero_()
        flashmla.append_kv(cache, latent, None, slots, kv_format=kv_format)
        same = (found.view(len(cache), -1) == cache.view(len(cache), -1)).all(1)
        assert set(torch.nonzero(~same).flatten().tolist()) <= {shared}


@pytest.mark.parametrize("kv_format", FORMATS)
def test_caches_of_more_than_2_to_the_31_bytes(room, kv_format):
    """Slots on both sides of 2^31 and 2^32 bytes, and at the end, come back as they were written."""
    probe = make_cache(kv_format, 1)
    page = probe.numel() * probe.element_size()
    num_blocks = (2**32 + 2**30) // page
    room(num_blocks * page)
    cache = make_cache(kv_format, num_blocks)
    places = [0, 2**31 // page, 2**32 // page, num_blocks - 1]
    slots = torch.tensor([64 * at + row for at in places for row in (0, 63)], device="cuda")
    latent = torch.randn(len(slots), columns_of(kv_format), device="cuda").bfloat16()
    flashmla.append_kv(cache, latent, None, slots, kv_format=kv_format)
    small = make_cache(kv_format, len(places))
    near = torch.tensor([64 * i + row for i in range(len(places)) for row in (0, 63)], device="cuda")
    flashmla.append_kv(small, latent, None, near, kv_format=kv_format)
    assert torch.equal(cache[places], small)
    table = torch.tensor([places], dtype=torch.int32, device="cuda")
    offsets = torch.tensor([0, 64 * len(places)], dtype=torch.int32, device="cuda")
    found = flashmla.gather_kv(cache, table, offsets, 64 * len(places), kv_format=kv_format)
    assert torch.equal(found, flashmla.dequantize_kv(small, kv_format=kv_format))


@pytest.mark.parametrize("kv_format", oracle.FORMATS)
def test_rows_of_more_than_2_to_the_31_bytes(room, kv_format):
    count = 2**31 // 1024 + 1000
    columns, size = columns_of(kv_format), oracle.FORMATS[kv_format].token_bytes
    room(count * (2 * 2 * columns + size))
    latent = torch.zeros(count, columns, dtype=torch.bfloat16, device="cuda")
    latent[-1000:] = torch.randn(1000, columns, device="cuda")
    pages = flashmla.quantize_kv(latent, kv_format=kv_format, page_size=64)
    back = flashmla.dequantize_kv(pages, kv_format=kv_format)
    few = flashmla.quantize_kv(latent[-1000:], kv_format=kv_format)
    assert torch.equal(back[count - 1000 : count], flashmla.dequantize_kv(few, kv_format=kv_format))
    assert not back[: count - 1000].any()
