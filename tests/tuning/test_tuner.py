"""Which choice is taken, and for which ranges; times are made up."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import hypothesis
import pytest
from hypothesis import strategies as st

import build
import flashmla
from flashmla import _tune_cases, _tune_problem, _tune_search, _tuning
from flashmla._tune_cases import parsed
from flashmla._tune_ranges import entries
from flashmla._tune_search import BY_RULE, Found, is_better, is_no_worse
from tuning.on_cpu import TorchOnCpu

SHAPE = parsed("4,1,128,4096").shape


def noisy(us: float, noise: float, count: int = 9, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [us * (1 + noise * draw.uniform(-1, 1)) for _ in range(count)]


def test_faster_by_more_than_noise_is_better():
    rule = noisy(100, 0.002)
    assert is_better(noisy(97, 0.002, seed=1), rule, by=0.015)
    assert not is_better(noisy(99, 0.002, seed=1), rule, by=0.015)
    assert not is_better(noisy(97, 0.2, seed=1), rule, by=0.015)
    assert not is_better(rule, rule, by=0.0)
    drifting = [100 + 10 * i for i in range(9)]  # what both share is no noise
    assert is_better([0.96 * us for us in drifting], drifting, by=0.015)
    assert is_no_worse([1.004 * us for us in drifting], drifting, by=0.005)
    assert not is_no_worse([1.006 * us for us in drifting], drifting, by=0.005)


def test_the_rule_is_that_of_the_document():
    text = (build.ROOT / "docs" / "tuning.md").read_text()
    assert f"by more than {100 * _tune_search.GAIN:g} %" in text
    assert f"more than {100 * _tune_search.LOSS:g} %" in text
    named = set(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))
    words = {word.strip("`").partition("=")[0] for cell in named for word in cell.split(", ")}
    assert words == set(_tune_cases._WORDS)


@pytest.fixture
def timed(monkeypatch):
    """Runs the search with times that `us` tells of a choice (as a dict) and lengths."""
    monkeypatch.setattr(_tune_problem, "_LEAST_TOKENS", 1 << 10)
    monkeypatch.setattr(_tune_search, "_WARM_SECONDS", 0)
    monkeypatch.setattr(_tuning, "save", lambda *_: None)
    monkeypatch.setattr(_tuning, "load_tuning", lambda _: None)

    def run(text: str, us, does=lambda _: False) -> Found:
        shape = parsed(text).shape
        search = _tune_search.Search(_tune_problem.Caches(TorchOnCpu()), 0, shape, [parsed(text).tokens])

        class Replays:
            def __init__(self, choice, lengths):
                self.us = us(dict(choice), lengths.ragged)

            def time(self):
                return self.us

        def replays(choice, lengths, _):
            name = dict(choice).get("kernel")
            return Replays(choice, lengths) if name is None or does(name) else None

        monkeypatch.setattr(search, "_replays", replays)
        return search.run()

    return run


@pytest.mark.usefixtures("gpu_kernels")
def test_the_best_of_all_stages_is_taken(timed):
    def us(choice, _):
        return (100 - 10 * ("cluster1_pages" in choice.get("kernel", "")) - 5 * (choice.get("num_splits") == 8)
                - 4 * (choice.get("l2_policy") == 1))  # fmt: skip

    names = [k["name"] for k in flashmla.info()["kernels"]]
    does = [name for name in names if name.startswith("dense_decode_bf16_576_cluster1")]
    found = timed("4,1,128,4096", us, does=lambda name: name in does)
    kernel = dict(found.choice)["kernel"]
    assert "cluster1_pages" in kernel
    assert dict(found.choice) == {"kernel": kernel, "num_splits": 8, "l2_policy": 1}
    assert (found.us, found.rule_us) == (pytest.approx(81), 100)
    assert found.nearest[1] == pytest.approx(0.9)


@pytest.mark.usefixtures("gpu_kernels")
def test_splits_are_tried_with_kernels_that_are_about_as_fast(timed):
    def us(choice, _):
        slow = "kernel" in choice
        return 100 + 3 * slow - 20 * (slow and choice.get("num_splits") == 8)

    found = timed("4,1,128,4096", us, does=lambda name: name == "dense_decode_bf16_576_cluster1")
    assert dict(found.choice) == {"kernel": "dense_decode_bf16_576_cluster1", "num_splits": 8}


def test_what_is_no_better_is_kept(timed):
    assert timed("4,1,128,4096", lambda choice, _: 100 - len(choice) * 0.3).choice == BY_RULE


def test_what_loses_with_other_lengths_is_not_taken(timed):
    """But a choice on the way to it that does not."""

    def us(choice, ragged):
        if ragged:
            return 100 + 10 * ("num_splits" in choice)
        return 100 - 20 * ("num_splits" in choice) - 10 * ("l2_policy" in choice)

    found = timed("4,1,128,4096", us)
    assert found.choice == BY_RULE
    found = timed("4,1,128,2048,topk=512", lambda choice, _: 100 - 20 * (choice.get("num_splits") == 8))
    assert found.choice == (("num_splits", 8),)


points = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2))


@hypothesis.given(drawn=st.lists(points, min_size=1, max_size=20, unique_by=lambda p: p[:2]))
def test_ranges_hold_no_shape_with_another_choice(drawn):
    choices = [BY_RULE, (("num_splits", 2),), (("num_splits", 3),)]
    found = [Found(replace(SHAPE, batch=b, capacity=64 * c), choices[k], 1.0, 2.0, 1) for b, c, k in drawn]
    made = entries(found)
    for b, c, k in drawn:
        holding = [
            entry
            for entry in made
            if entry["batch_from"] <= b <= entry["batch_to"]
            and entry["capacity_from"] <= 64 * c <= entry["capacity_to"]
        ]
        assert holding, "every shape has an entry"
        assert {entry.get("num_splits", 0) for entry in holding} == {dict(choices[k]).get("num_splits", 0)}


def test_neighbours_with_one_choice_are_one_range():
    choice = (("num_splits", 2),)
    found = [Found(replace(SHAPE, batch=b, capacity=64 * c), choice, 1.0, 2.0, 1) for b in (1, 4, 9) for c in (2, 5)]
    (entry,) = entries(found)
    assert [entry[name] for name in ("batch_from", "batch_to", "capacity_from", "capacity_to")] == [1, 9, 128, 320]
