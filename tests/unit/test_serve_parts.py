"""The parts of the serving demo: its scheduler, its models, the sparse attention, the picture."""

import io
import pathlib
import re
import sys
import types

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "python"))

import flashmla
import timeline
import traffic
from arrays import NumPyArrays
from attended import INDEX_COLUMNS, Attended, SparseAttention, places
from attention_numpy import Layer, Step, random_weights
from scheduler import Scheduler, pages_for
from stand_in_model import EXTENTS, make_model


class Float32Arrays(NumPyArrays):
    dtype, dtype_name = np.float32, "float32"

    def __init__(self):
        self.xp = np


def requests(count, seed=3, longest=300, generated=120):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, (longest, generated), size=(count, 2)).tolist()
    return [traffic.Request(number, 0.0, *of) for number, of in enumerate(lengths)]


def served(num_blocks, num_host_blocks, seed, topk=None, max_batch=4, step_tokens=60):
    """The tokens of each request in the end, the scheduler's counts, and most tokens of a step."""
    model = make_model(Float32Arrays(), layers=1, heads=2, seed=1, topk=topk)
    cache = model.make_cache(
        num_blocks, 64, num_host_blocks, max_seqs=max_batch, max_seq_len=512, max_slots=step_tokens
    )
    scheduler = Scheduler(cache, max_batch, step_tokens)
    prompts = traffic.Prompts(2, 130, vocabulary=512, seed=seed)
    tokens, most = {}, 0
    for request in requests(9, seed):
        scheduler.submit(request, tokens.setdefault(request.number, prompts.of(request)))
    while scheduler:
        step, given, pieces = scheduler.next_step(lambda *of: model.begin(cache, *of, seen=None))
        assert 0 < len(pieces) <= len(scheduler.running) <= max_batch
        assert len(given) == sum(pieces.values())
        usage = cache.usage()
        assert usage.sequences == len(scheduler.running) + len(scheduler.swapped)
        most = max(most, len(given))
        scheduler.take(pieces, model.run(cache, step, given))
    assert (cache.usage().used, cache.usage().sequences) == (0, 0)
    assert [len(tokens[r.number]) for r in requests(9, seed)] == [r.tokens for r in requests(9, seed)]
    return tokens, scheduler.counts, most


def test_what_a_model_says_follows_from_all_that_it_attends():
    model = make_model(Float32Arrays(), layers=2, heads=2, seed=1)
    prompt, said = np.random.default_rng(0).integers(512, size=150).tolist(), []
    for first in (prompt[0], (prompt[0] + 1) % 512):
        cache = model.make_cache(8, 64, 1, max_seqs=1, max_seq_len=256)
        sequence, _ = cache.allocate()
        tokens = [first, *prompt[1:]]
        for new in [tokens, *([None] * 40)]:
            step = model.begin(cache, [sequence], [len(new or [0])], None)
            tokens += model.run(cache, step, new or tokens[-1:])
        said.append(tokens[150:])
    assert len(set(said[0])) > 10
    assert said[0] != said[1]


@pytest.mark.parametrize("topk", [None, 40])
def test_what_requests_say_does_not_depend_on_the_room(topk):
    """In float32 near-ties are rare enough for small sums in another order to leave the tokens."""
    expected, counts, most = served(60, 1, seed=5, topk=topk, max_batch=9, step_tokens=4000)
    assert counts.swapped_out == counts.restarted == 0
    assert most > 500
    assert counts.found_tokens == 0, "prompts that begin in one step are none that others wrote before"
    tight, counts, most = served(8, 40, seed=5, topk=topk)
    assert counts.swapped_out > 0
    assert counts.restarted == 0
    assert counts.found_tokens > 0
    assert most <= 60
    assert tight == expected
    tighter, counts, _ = served(8, 1, seed=5, topk=topk)
    assert counts.restarted > 0
    assert tighter == expected
    assert counts.finished == 9


def test_a_request_that_would_not_fit_alone_is_refused():
    model = make_model(Float32Arrays(), layers=1, heads=2, seed=1)
    cache = model.make_cache(3, 64, 1, max_seqs=2, max_seq_len=512)
    scheduler = Scheduler(cache, 2, 64)
    scheduler.submit(traffic.Request(0, 0.0, 190, 3), [0] * 190)
    assert not scheduler
    assert scheduler.counts.refused == 1
    scheduler.submit(traffic.Request(0, 0.0, 190, 2), [0] * 190)
    assert scheduler


def test_the_layers_of_both_frameworks_are_one():
    torch = pytest.importorskip("torch")
    from flashmla.integrations.torch import FlashMLAAttention, PagedStep, Rope

    weights = random_weights(np.random.default_rng(0), heads=4, **EXTENTS)
    x = np.random.default_rng(1).standard_normal((213, EXTENTS["hidden"]), np.float32)
    found = []
    for name in "numpy", "torch":
        pages = np.full((8, 64, 1, 576), np.nan, np.float32)
        kv_caches = [pages if name == "numpy" else torch.from_numpy(pages)]
        cache = flashmla.PagedKVCache(kv_caches, max_seqs=2, max_seq_len=256)
        sequences = [cache.allocate()[0] for _ in range(2)]
        outs = []
        for counts in ([200, 10], [1, 2]):
            rows = x[: sum(counts)] if len(outs) == 0 else x[210:]
            if name == "numpy":
                outs.append(Layer(weights, 4)(rows, pages, Step.of_cache(cache, sequences, counts)))
            else:
                tensors = {of: torch.from_numpy(array) for of, array in weights.items()}
                layer = FlashMLAAttention(tensors, num_heads=4, rope=Rope())
                outs.append(layer(torch.from_numpy(rows), PagedStep.of_cache(cache, sequences, counts)).numpy())
        found.append(np.concatenate(outs))
    np.testing.assert_allclose(found[0], found[1], atol=2e-5)


def test_sparse_attention_selects_the_most_like_of_those_before():
    rng = np.random.default_rng(2)
    arrays, page_size, topk = Float32Arrays(), 4, 3
    kv_cache = rng.standard_normal((6, page_size, 1, 576)).astype(np.float32)
    table = np.array([[4, 1, 5], [2, 0, 3]], np.int32)
    counts, lengths = [3, 1], [5, 9]
    kv_cache[5] = np.nan  # a page behind the first sequence
    sequences, ends = places(counts, lengths)
    assert (sequences.tolist(), ends.tolist()) == ([0, 0, 0, 1], [3, 4, 5, 9])
    q = rng.standard_normal((4, 2, 576)).astype(np.float32)
    out, slots = SparseAttention(arrays, topk, table, counts, lengths, page_size)(q, kv_cache, 0.1)
    for token, (sequence, length) in enumerate(zip(sequences, ends, strict=True)):
        position = np.arange(length)
        own = table[sequence, position // page_size] * page_size + position % page_size
        rows = kv_cache.reshape(-1, 576)[own]
        best = own[np.argsort(rows[:, INDEX_COLUMNS] @ q[token, :, INDEX_COLUMNS].sum(0))[::-1][:topk]]
        assert sorted(slots[token]) == sorted(best)
        call = Attended(q, out, kv_cache, table, np.arange(4), 0.1, slots)
        expected, _, _ = call.expected(arrays, token, sequence, length)
        np.testing.assert_allclose(out[token], expected, atol=1e-5)


def sample(end, **given):
    zeros = dict.fromkeys(("prompt_tokens", "new_tokens", "used", "cached", "swapped"), 0)
    return timeline.Sample(end, **({"seconds": 1.0} | zeros | given))


SAMPLES = [
    sample(1.0, new_tokens=10, used=3, cached=5),
    sample(2.0, new_tokens=20, used=8, prompt_tokens=5),
    sample(3.0, new_tokens=40, used=2, cached=6, swapped=7),
    sample(4.0, new_tokens=0, used=1),
]


def test_columns_hold_the_steps_that_end_in_them():
    assert timeline.columns(SAMPLES, 2) == [SAMPLES[:1], SAMPLES[1:]]
    two = timeline.columns(SAMPLES, 2)[1]
    assert timeline.NEW(two) == 20
    assert (timeline.USED(two), timeline.CACHED(two), timeline.SWAPPED(two)) == (8, 0, 7)
    assert timeline.columns(SAMPLES, 8) == [[SAMPLES[i]] for i in (0, 0, 0, 0, 1, 1, 2, 3)], "none: the one before"


def test_bars_show_what_is_not_0():
    assert timeline.bars([0, 1, 500, 1000], 1000, " #") == ["   #", "   #", "   #", "  ##", " ###"]
    assert timeline.bars([0.0, 0.0], 0.0, " #") == ["  "] * 5


@pytest.mark.parametrize(
    ("encoding", "terminal", "variables", "colour"),
    [
        ("utf-8", True, {"TERM": "xterm"}, True),
        ("utf-8", True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        ("utf-8", True, {"TERM": "dumb"}, False),
        ("utf-8", False, {"TERM": "xterm"}, False),
        ("ascii", True, {"TERM": "xterm"}, True),
    ],
)
def test_the_drawing_follows_the_terminal(monkeypatch, encoding, terminal, variables, colour):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"COLUMNS": "40", **variables}.items():
        monkeypatch.setenv(name, value)
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    shown = types.SimpleNamespace(write=out.write, isatty=lambda: terminal, encoding=encoding)
    timeline.draw(SAMPLES, shown)
    out.flush()
    text = raw.getvalue().decode(encoding)
    assert ("\x1b[" in text) == colour
    assert ("█" in text) == (encoding == "utf-8")
    assert max(len(re.sub("\x1b\\[[0-9]+m", "", line)) for line in text.splitlines()) <= 40
    assert "4.0 s in steps" in text


@pytest.mark.parametrize(
    ("value", "top"), [(0, 4), (3, 4), (5, 8), (97, 100), (101, 104), (1234, 1240), (99999, 100000)]
)
def test_axes_end_with_round_numbers(value, top):
    assert timeline.round_up(value) == top >= value


def test_marks_of_an_axis_have_their_own_figures():
    """A quarter of a pool of 78 pages is no whole number of them."""
    text = timeline.picture(SAMPLES, "title", 78)
    assert {f">{figure}<" in text for figure in ("19.5", "39", "58.5", "78")} == {True}


def test_pages_for():
    assert [pages_for(tokens) for tokens in (0, 1, 64, 65)] == [0, 1, 1, 2]
