"""What a pool does on a GPU, beside random calls: graphs, captures, streams of the caller, frameworks. Each is a
function, for test_gpu.py and for machines with nothing but the package."""

from __future__ import annotations

import numpy as np

import flashmla
from pool.memory import TorchMemory
from pool.model import Model
from pool.subject import Subject


def subject(**more) -> Subject:
    facts = {"num_blocks": 12, "page_size": 4, "rows": 4, "max_blocks": 6, "slots": 40, "host_blocks": 12}
    model = Model(**facts | {"max_sequences": 8} | more)
    return Subject(model, 2, "listed", TorchMemory("cuda"))


def graph_sees_what_was_uploaded() -> None:
    import torch

    one = subject()
    first = one.allocate([1, 2, 3])
    one.append([first], [[1, 2, 3]])
    shown = (one.cache.block_table, one.cache.cache_seqlens, one.cache.slot_mapping)
    copies = [torch.empty_like(tensor) for tensor in shown]
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for copy, tensor in zip(copies, shown, strict=True):
            copy.copy_(tensor)
    for step in range(12):
        one.append([first], [[step % 2]])
        graph.replay()
        assert int(copies[1][one.cache.row(first)]) == 4 + step
        assert copies[2].tolist() == one.slots + [-1] * (one.model.slots - 1)
        blocks = one.cache.blocks(first)
        assert copies[0][one.cache.row(first)].tolist()[: len(blocks)] == blocks
    one.check()


def capture_is_refused() -> None:
    import torch

    one = subject()
    name = one.allocate([])
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    said = ""
    with torch.cuda.graph(graph, stream=stream):
        torch.zeros(1, device="cuda")
        try:
            one.cache.append([name])
        except flashmla.InvalidArgumentError as error:
            said = str(error)
    assert "captured" in said, said
    assert one.cache.length(name) == 0
    assert one.cache.append([name]) == 1
    assert one.cache.cache_seqlens.tolist()[one.cache.row(name)] == 1


def swaps_keep_rows_while_others_work(megabytes: int = 512) -> None:
    """A large sequence goes out and comes back beside work on the stream, which reuses its pages."""
    import torch

    blocks, page, row = megabytes, 64, 8192  # a block of 1 MiB
    cache = torch.empty((2 * blocks, page, 1, row), dtype=torch.bfloat16, device="cuda")
    size = flashmla.PagedKVCache.bytes_of_block([cache])
    host = torch.empty((blocks, size), dtype=torch.uint8, pin_memory=True)
    pool = flashmla.PagedKVCache([cache], max_seqs=4, max_seq_len=2 * blocks * page, host_pool=host)
    name, other = pool.allocate()[0], pool.allocate()[0]
    pool.append([name], [blocks * page])
    values = torch.randn((blocks, page, row), device="cuda").bfloat16()
    cache[pool.blocks(name), :, 0] = values
    pool.swap_out(name)
    pool.append([other], [2 * blocks * page])  # all pages
    cache[pool.blocks(other), :, 0] = -1.0
    pool.free(other)
    pool.swap_in(name)
    pool.append([name], [0])
    assert torch.equal(cache[pool.blocks(name), :, 0], values)


def other_streams() -> None:
    """All on a stream of the caller."""
    import torch

    with torch.cuda.stream(torch.cuda.Stream()):
        one = subject()
        names = [one.allocate([]) for _ in range(3)]
        for step in range(8):
            one.append(names, [[step % 2]] * 3)
            one.call("swap_out", names[step % 3])
            one.call("swap_in", names[step % 3])
        one.check()
        one.end()


def cupy_arrays() -> None:
    import cupy

    pages = cupy.zeros((8, 4, 1, 8), "float16")
    cache = flashmla.PagedKVCache([pages], max_seqs=2, max_seq_len=16)
    name, _ = cache.allocate()
    total = cache.append([name], [6])
    assert cupy.asnumpy(cache.slot_mapping)[:total].tolist() == list(range(6))
    assert cupy.asnumpy(cache.cache_seqlens).tolist() == [6, 0]
    assert cupy.asnumpy(cache.block_table)[0, :2].tolist() == [0, 1]


def many_steps_without_waiting() -> None:
    """More uploads under way than staging holds: the pool waits, and loses none."""
    import torch

    one = subject(num_blocks=24, rows=4, max_blocks=6)
    names = [one.allocate([]) for _ in range(4)]
    busy = torch.randn((4096, 4096), device="cuda")
    for _ in range(24):
        busy = busy @ busy * 1e-3
        one.append(names, [[1]] * 4)
    one.check()


def uploads_of_many_pieces(memory=None) -> None:
    """Long arrays and parts of them that begin anywhere: every entry, and none beside it."""
    memory = memory or TorchMemory("cuda")
    pages = memory.made(np.zeros((8192, 1, 1, 8), "float32"))
    cache = flashmla.PagedKVCache([pages], max_seqs=400, max_seq_len=700, max_slots=3000)
    names = [cache.allocate()[0] for _ in range(400)]
    for step in range(8):
        chosen = names[7 * step :][: 200 + step]
        before = [len(cache.blocks(name)) for name in chosen]
        total = cache.append(chosen, [300 if i == 5 else i % 4 for i in range(len(chosen))])
        slots = [slot for name, old in zip(chosen, before, strict=True) for slot in cache.blocks(name)[old:]]
        assert len(slots) == total
        assert memory.read(cache.slot_mapping).tolist() == slots + [-1] * (3000 - total)
        blocks = {cache.row(name): cache.blocks(name) for name in names}
        assert memory.read(cache.cache_seqlens).tolist() == [len(blocks[row]) for row in range(400)]
        table = np.full((400, 700), -1)
        for row, entries in blocks.items():
            table[row, : len(entries)] = entries
        assert (memory.read(cache.block_table) == table).all()


def swapping(sleep: int = 0) -> tuple:
    """A cache two blocks of which are being swapped out behind work that takes so many cycles, and its host pool."""
    import torch

    pages = torch.ones(8, 4, 1, 8, device="cuda")
    host = torch.zeros(8, 4 * 8 * 4, dtype=torch.uint8).pin_memory()
    cache = flashmla.PagedKVCache([pages], max_seqs=2, max_seq_len=32, host_pool=host)
    sequence, _ = cache.allocate()
    cache.append([sequence], [6])
    torch.cuda.synchronize()
    if sleep:
        torch.cuda._sleep(sleep)
    cache.swap_out(sequence)
    return cache, host


def a_cache_that_is_collected_waits_for_its_copies() -> None:
    cache, host = swapping(sleep=10**8)
    assert not host.any(), "the swap is to be under way"
    del cache
    assert int(host.any(dim=1).sum()) == 2


def a_cache_is_collected_during_a_capture() -> None:
    import torch

    caches, x = [swapping()[0]], torch.zeros(4, device="cuda")
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        x.add_(1)
        caches.clear()
        x.add_(1)
    graph.replay()
    torch.cuda.synchronize()
    assert x.tolist() == [2] * 4


def steps_end_before_swaps_that_are_under_way() -> None:
    """Enqueued behind them, uploads and attention; if one of them waited for a swap they never would. Other processes
    may delay them: it is tried again."""
    import torch

    from benchmarks import pool_swap

    pool = pool_swap.Pool("interleaved", layers=8, pages=1024)
    for layer in pool.layers:
        layer[..., 0] = 1.0
    seen = {"out": False, "in": False}
    for _ in range(20):
        for name in seen:
            if name == "out":
                pool.host[:, 0] = 0  # which no row begins with
            torch.cuda.synchronize()
            pool.swap(name)
            pool.step(appends=True)
            attended, behind = torch.cuda.Event(), torch.cuda.Event()
            attended.record()
            if name == "in":
                pool.cache.append([pool.long], [0])  # waits for the swap
                behind.record()
            attended.synchronize()
            seen[name] |= not behind.query() if name == "in" else not pool.host[:, 0].all()
            torch.cuda.synchronize()
            assert name == "in" or pool.host[:, 0].all()
        if all(seen.values()):
            return
    raise AssertionError(f"a step ended before a swap did: {seen}")


CHECKS = [
    graph_sees_what_was_uploaded,
    capture_is_refused,
    swaps_keep_rows_while_others_work,
    uploads_of_many_pieces,
    steps_end_before_swaps_that_are_under_way,
    other_streams,
    cupy_arrays,
    many_steps_without_waiting,
    a_cache_that_is_collected_waits_for_its_copies,
    a_cache_is_collected_during_a_capture,
]


if __name__ == "__main__":
    import traceback

    failed = 0
    for check in CHECKS:
        try:
            check()
            print("passed", check.__name__, flush=True)
        except Exception:  # noqa: BLE001 - all of them are told
            failed += 1
            print("FAILED", check.__name__, traceback.format_exc(), flush=True)
    raise SystemExit(failed)
