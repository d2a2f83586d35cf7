"""The serving demo of examples/python: its traffic, its page pool, its batching, and one small run from end to end."""

import pathlib
import sys
import types

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "python"))

import flashmla
import serve
import traffic
from arrays import NumPyArrays
from batcher import PAGE_SIZE, Batcher, pages_for
from gpu_limits import LimitMeter
from page_allocator import PageAllocator

CSV = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,130,3
2023-11-16 18:17:04.4799600,64,2
2023-11-16 18:17:05.9799600,1,0
"""


@pytest.mark.parametrize("name", traffic.SERVICES)
def test_drawn_lengths_follow_the_published_quantiles(name):
    service = traffic.SERVICES[name]
    requests = traffic.draw(service, 20_000, 1, seed=5)
    for lengths, published in (
        ([r.context for r in requests], service.context),
        ([r.generated for r in requests], service.generated),
    ):
        # 20,000 draws place a quantile within 0.01 of its level (three standard errors at the median).
        up_to = np.array([np.mean(np.array(lengths) <= value) for value in published])
        below = np.array([np.mean(np.array(lengths) < value) for value in published])
        assert np.all(up_to >= np.array(traffic.LEVELS) - 0.011)
        assert np.all(below <= np.array(traffic.LEVELS) + 0.011)
        assert published[0] <= min(lengths) <= max(lengths) <= published[-1]


@pytest.mark.parametrize("load", [1, 4])
def test_arrivals_come_at_the_published_rate(load):
    requests = traffic.draw(traffic.SERVICES["conv"], 20_000, load, seed=6)
    arrivals = [r.arrival for r in requests]
    assert arrivals[0] == 0
    assert arrivals == sorted(arrivals)
    assert 20_000 / arrivals[-1] == pytest.approx(load * 19_366 / 3600, rel=0.03)


def test_a_limit_in_seconds_draws_all_that_arrive_within_it():
    conv = traffic.SERVICES["conv"]
    requests = traffic.draw(conv, conv.enough_for(60.0, 2), 2, seed=7)
    assert requests[-1].arrival > 60.0
    assert len(requests) < 1.6 * conv.rate(2) * 60.0


def test_a_draw_is_repeatable():
    code = traffic.SERVICES["code"]
    assert traffic.draw(code, 50, 1, seed=1) == traffic.draw(code, 50, 1, seed=1)
    assert traffic.draw(code, 50, 1, seed=1) != traffic.draw(code, 50, 1, seed=2)


def test_replay_reads_the_published_columns(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(CSV)
    assert traffic.replay(path, None, load=2) == [
        traffic.Request(0, 0.0, 130, 3),
        traffic.Request(1, 0.25, 64, 2),
        traffic.Request(2, 1.0, 1, 1),  # a request without output still costs a step
    ]
    assert len(traffic.replay(path, 2, load=1)) == 2


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", CSV + "2023-11-16 18:17:06,many,1\n"])
def test_replay_refuses_other_files(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"trace\.csv"):
        traffic.replay(path, None, load=1)


def test_shortened_keeps_a_token():
    assert traffic.Request(0, 1.0, 9, 1).shortened(4) == traffic.Request(0, 1.0, 3, 1)


def test_the_allocator_keeps_its_promises():
    pool = PageAllocator(4)
    assert pool.promise(3)
    assert not pool.promise(2)
    pages = [pool.allocate() for _ in range(3)]
    assert len(set(pages)) == pool.in_use == pool.peak == 3
    with pytest.raises(RuntimeError, match="never promised"):
        pool.allocate()
    assert "3 pages still in use" in pool.leaks()
    pool.release(pages)
    assert not pool.leaks()
    assert pool.promise(4)
    assert "4 still promised" in pool.leaks()
    with pytest.raises(RuntimeError, match="not in use"):
        pool.release([0])


def test_batching_never_shares_a_page_and_returns_all():
    pool = PageAllocator(12)
    batcher = Batcher(pool, max_batch=4, max_blocks=6)
    rng = np.random.default_rng(3)
    for number in range(60):
        batcher.submit(traffic.Request(number, 0.0, int(rng.integers(1, 200)), int(rng.integers(1, 120))))
    batcher.submit(traffic.Request(60, 0.0, 6 * PAGE_SIZE, 1))
    assert batcher.refused == 1
    steps = 0
    while batcher.waiting or batcher.running:
        for row in batcher.admit():
            assert batcher.cache_seqlens[row] == batcher.running[row].request.context
        assert 0 < len(batcher) <= 4
        pages, slots = batcher.grow()
        taken = [page for sequence in batcher.running for page in sequence.pages]
        assert len(taken) == len(set(taken)) == pool.in_use <= 12
        for row, sequence in enumerate(batcher.running):
            length = sequence.request.context + sequence.generated
            assert batcher.cache_seqlens[row] == length
            assert list(batcher.block_table[row, : pages_for(length)]) == sequence.pages
            assert np.all(batcher.block_table[row, pages_for(length) :] == -1)
            assert (pages[row], slots[row]) == (sequence.pages[-1], (length - 1) % PAGE_SIZE)
        before = list(batcher.running)
        came_from = batcher.retire()
        assert [before[row] for row in came_from] == batcher.running
        steps += 1
        assert steps < 10_000
    assert batcher.finished == 60
    assert pool.peak <= 12
    assert not pool.leaks()


SMALL = ["--device=cpu", "--requests=6", "--heads=3", "--layers=2", "--shorten=16", "--max-batch=3", "--check-every=3"]


@pytest.mark.parametrize("sparse", [[], ["--sparse=20"], ["--sparse=100000"]], ids=["dense", "sparse", "all"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_small_run(framework, sparse, capsys):
    if framework != "numpy":
        pytest.importorskip(framework)
    assert serve.main([*SMALL, *sparse, f"--framework={framework}"]) == 0
    said = capsys.readouterr().out
    assert "requests finished     6\n" in said
    assert "FAILED" not in said


@pytest.mark.parametrize("topk", [None, 50])
def test_a_step_decoded_again_gives_the_same_bits(topk):
    batcher = Batcher(PageAllocator(8), max_batch=2, max_blocks=4)
    for number, context in enumerate((70, 200)):
        batcher.submit(traffic.Request(number, 0.0, context, 5))
    server = serve.Server(NumPyArrays(), batcher, layers=2, heads=3, seed=0, topk=topk)
    server.prefill()
    calls = server.step()
    before = [array.tobytes() for call in calls for array in (call.out, call.lse)]
    serve.decode_again(calls)
    assert [array.tobytes() for call in calls for array in (call.out, call.lse)] == before


# Two layers, 1,152 bytes and heads * 2 * (576 + 512) FLOP a token; few heads are limited by bytes, many by FLOP.
@pytest.mark.parametrize(("heads", "least_seconds"), [(1, 2 * 1152e6 / 1e12), (128, 2 * 128 * 2 * 1088e6 / 1e14)])
def test_the_share_of_the_limit(monkeypatch, heads, least_seconds):
    monkeypatch.setattr(LimitMeter, "_read_bandwidth", lambda _: 1e12)
    monkeypatch.setattr(LimitMeter, "_matmul_rate", lambda _: 1e14)
    arrays = types.SimpleNamespace(captured=lambda work: work, seconds=lambda _work, _repeats: 0.01)
    meter = LimitMeter(arrays)
    meter.measure(lambda: None, layers=2, heads=heads, tokens=1_000_000)
    assert meter.share == pytest.approx(least_seconds / 0.01)


def test_a_small_replay_is_repeatable(tmp_path, capsys):
    path = tmp_path / "trace.csv"
    path.write_text(CSV)
    said = []
    for _ in range(2):
        assert serve.main(["--device=cpu", "--heads=2", "--layers=1", "--check-every=1", "--trace", str(path)]) == 0
        said.append(next(line for line in capsys.readouterr().out.splitlines() if "digest" in line))
    assert said[0] == said[1]


@pytest.mark.parametrize(("operation", "more"), [("dense_decode", []), ("sparse_decode", ["--sparse=30"])])
def test_a_wrong_result_ends_in_failure(monkeypatch, capsys, operation, more):
    right = getattr(flashmla, operation)

    def wrong(*arguments, **options):
        out, lse = right(*arguments, **options)
        out[..., 7] *= 1.5
        return out, lse

    monkeypatch.setattr(flashmla, operation, wrong)
    assert serve.main([*SMALL, *more]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_lost_page_ends_in_failure(monkeypatch, capsys):
    release = PageAllocator.release
    monkeypatch.setattr(PageAllocator, "release", lambda self, pages, rest=0: release(self, pages[1:], rest))
    assert serve.main([*SMALL, "--pages=200"]) == 1
    assert "still in use" in capsys.readouterr().out


def test_a_missing_trace_is_said(capsys):
    assert serve.main(["--device=cpu", "--trace=/nonexistent.csv"]) == 2
    assert "nonexistent.csv" in capsys.readouterr().err
