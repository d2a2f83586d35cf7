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


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kv_format", ["bf16", "v32", "fp8"])
@pytest.mark.parametrize("count", [600, 20_000])
def test_what_the_kernels_before_have_written_is_seen(kv_format, count):
    """Tokens, slots and the scale change right before each call; a call's second launch reads them before it waits."""
    draw = torch.Generator("cuda").manual_seed(count)
    columns, turns = columns_of(kv_format), range(5)
    tokens = [torch.randn(count, columns, device="cuda", generator=draw).bfloat16() for _ in turns]
    places = [torch.randperm(count, device="cuda", generator=draw) for _ in turns]
    caches = [make_cache(kv_format, count // 4, 4) for _ in turns]
    scales = [torch.tensor([2.0**-turn], device="cuda") for turn in turns]
    latent, slots, scale = tokens[0].clone(), places[0].clone(), scales[0].clone()
    options = {"kv_format": kv_format} | ({"descale_k": scale} if kv_format == "fp8" else {})
    torch.cuda.synchronize()
    for turn in turns:
        latent.copy_(tokens[turn])
        slots.copy_(places[turn])
        scale.copy_(scales[turn])
        flashmla.append_kv(caches[turn], latent, None, slots, **options)
    for turn in turns:
        scale.copy_(scales[turn])
        rows = tokens[turn] if kv_format == "bf16" else flashmla.quantize_kv(tokens[turn], page_size=4, **options)
        assert torch.equal(caches[turn].view(count, -1)[places[turn]], rows.view(count, -1))


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
