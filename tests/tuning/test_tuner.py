"""Which shapes are tuned, which choice is taken, and for which ranges; times are made up."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import random
import re
import sys
from dataclasses import replace

import hypothesis
import pytest
from hypothesis import strategies as st

import build
import flashmla
from flashmla import _tune, _tune_cases, _tune_problem, _tune_search, _tuning
from flashmla._tune_cases import DEFAULT, SPARSE, by_shape, of_profile, parsed
from flashmla._tune_ranges import entries
from flashmla._tune_search import BY_RULE, Found, is_better, is_no_worse
from tuning.on_cpu import TorchOnCpu

SHAPE = parsed("4,1,128,4096").shape


def test_cases_in_words():
    case = parsed("128,2,64,1000")
    shape = case.shape
    assert (shape.operation, shape.batch, shape.s_q, shape.h_q, shape.capacity, case.tokens) == (
        "dense_decode", 128, 2, 64, 1024, 1000,
    )  # fmt: skip
    assert parsed("1,1,16,100,page=16,capacity=320,window=64,h_kv=2,d_qk=320,dtype=float16,varlen=1").shape == replace(
        shape,
        batch=1,
        s_q=1,
        h_q=16,
        page_size=16,
        capacity=320,
        window=64,
        h_kv=2,
        d_qk=320,
        dtype="float16",
        varlen=1,
    )
    sparse = parsed("2,1,64,32768,topk=512,extra=128,format=model1").shape
    assert (sparse.operation, sparse.capacity, sparse.extra_topk, sparse.kv_format, sparse.d_qk, sparse.page_size) == (
        SPARSE, 512, 128, "model1", 512, 0,
    )  # fmt: skip


def test_the_room_of_tables_is_that_of_whole_pages_and_of_all_tokens():
    """A call tells the columns of its table times the page size: another figure would be the shape of no call."""
    rooms = {text: parsed(f"1,1,16,{text}").shape.capacity for text in ("100,capacity=200", "100,capacity=20", "100")}
    assert rooms == {"100,capacity=200": 256, "100,capacity=20": 128, "100": 128}


@pytest.mark.parametrize(
    "text",
    [
        *("", "1,2,3", "1,1,16,x", "0,1,16,64", "1,1,16,64,pages=3", "1,1,16,64,page", "1,1,16,64,format=fp9"),
        *("1,1,16,64,page=0", "1,1,16,64,h_kv=0", "1,1,16,64,topk=-4", "1,1,16,64,extra=64"),
        *(f"1,1,16,64,topk=64,{word}=64" for word in ("capacity", "page", "window")),
    ],
)
def test_a_case_that_is_none_is_named(text):
    with pytest.raises(flashmla.InvalidArgumentError, match=r"case is|format is"):
        parsed(text)


def test_the_default_set_has_the_shapes_of_the_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(build.ROOT / "benchmarks"))
    goals = importlib.import_module("goals")
    shapes = {case.shape for case in map(parsed, DEFAULT)}
    assert len(shapes) == len(DEFAULT)
    for goal in goals.GOALS:
        if len(goal.case) == 4:
            assert parsed(",".join(map(str, goal.case))).shape in shapes
    of_tuned = (build.ROOT / "benchmarks" / "tuned.py").read_text()
    more = ast.literal_eval(re.search(r"^MORE = (.*)$", of_tuned, re.MULTILINE)[1])
    assert all(parsed(",".join(map(str, case))).shape in shapes for case in more)


def test_cases_of_a_shape_come_together_and_the_largest_first():
    texts = ["1,1,16,64,format=v32", "2,1,16,640,capacity=1024", "8,1,16,640", "2,1,16,64,capacity=1024", "8,1,16,640"]
    found = by_shape(map(parsed, texts))
    assert [(shape.batch, shape.kv_format, tokens) for shape, tokens in found.items()] == [
        (8, "bf16", [640]), (2, "bf16", [640, 64]), (1, "v32", [64]),
    ]  # fmt: skip


def test_a_profile_names_the_shapes(cuda_12_0, tmp_path):
    path = tmp_path / "profile.json"
    cuda_12_0.run(
        "import flashmla\n"
        "from ops.sparse_decode.shape_only import STEP as SELECT\n"
        "with flashmla.profile() as report:\n"
        "    decode(); decode(STEP.but(max_blocks=80)); decode(STEP.but(batch_invariant=True)); sparse_decode(SELECT)\n"
        f"report.save({str(path)!r})"
    )
    cases = of_profile(path)
    assert {(case.shape.operation, case.shape.capacity, case.tokens) for case in cases} == {
        ("dense_decode", 2560, 2560), ("dense_decode", 5120, 5120), ("sparse_decode", 2048, 2048),
    }  # fmt: skip
    dense = next(case.shape for case in cases if case.shape.capacity == 2560)
    assert (dense.batch, dense.s_q, dense.h_q, dense.d_qk, dense.page_size, dense.varlen) == (8, 2, 64, 576, 64, 0)


@pytest.mark.parametrize("content", [None, "", "[]", '{"groups": [{}]}', '{"groups": 3}'])
def test_what_is_no_profile_is_named(tmp_path, content):
    path = tmp_path / "profile.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(flashmla.InvalidArgumentError, match=r"profile '.*profile.json' cannot be read"):
        of_profile(path)


def test_a_profile_of_the_cpu_has_nothing_to_tune(tmp_path, capsys):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"groups": []}))
    parser = argparse.ArgumentParser()
    _tune.add_arguments(parser)
    assert _tune.main(parser.parse_args(["--profile", str(path)])) == _tune.NOTHING
    assert "no calls" in capsys.readouterr().out


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
        search = _tune_search.Search(_tune_problem.Pools(TorchOnCpu()), 0, shape, [parsed(text).tokens])

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


def test_what_was_found_is_written(monkeypatch, capsys, tmp_path):
    """Of the shapes that could be measured, and before an interruption."""
    saved = []

    class Search:
        def __init__(self, *facts) -> None:
            _, _, self.shape, _ = facts

        def run(self) -> Found:
            if self.shape.batch == 3:
                raise flashmla.UnsupportedError("no kernel of this library fits the call")
            if self.shape.batch == 1:
                raise KeyboardInterrupt
            choice = (("num_splits", 2),) if self.shape.batch == 4 else BY_RULE
            return Found(self.shape, choice, 9.0, 10.0, 3, ((("num_splits", 7),), 0.99))

    monkeypatch.setattr(_tune, "torch_for", lambda _: TorchOnCpu())
    monkeypatch.setattr(_tune, "Search", Search)
    monkeypatch.setattr(_tuning, "save", lambda path, device, made: saved.append((path, device, made)))
    monkeypatch.setattr(_tuning, "load_tuning", lambda _: None)
    parser = argparse.ArgumentParser()
    _tune.add_arguments(parser)
    texts = ["4,1,16,64", "3,1,16,64", "2,1,16,64", "1,1,16,64"]
    given = [word for text in texts for word in ("--case", text)]
    assert _tune.main(parser.parse_args([*given, "--output", str(tmp_path / "tuned")])) == 0
    ((path, device, made),) = saved
    assert (path, device) == (tmp_path / "tuned", 0)
    assert sorted((e["batch_from"], e.get("num_splits", 0), e["default_ns"]) for e in made) == [
        (2, 0, 10_000), (4, 2, 10_000),
    ]  # fmt: skip
    first, second, third, fourth, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith("10.0 us -> 9.0 us (10.0% less) with num_splits 2")
    assert second.endswith("left out, no kernel of this library fits the call")
    assert third.endswith("10.0 us, kept; 3 tried, nearest 0.990: num_splits 7")
    assert fourth.startswith("interrupted: ")
    assert rest[0].startswith("1 of 2 shapes are faster, the others stay as they are; ")


def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere(capsys, monkeypatch):
    for live in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda live=live: live)
        progress = _tune._Progress(2)
        for words in ("one", "two"):
            progress.show(words)
            progress.tell(f"{words} done")
        told = capsys.readouterr().out
        assert ("#" in told) == live
        assert told.replace("\r\033[K", "").splitlines()[-1].endswith("two done")
    progress.show("end")
    assert f"[{'#' * 30}] 2/2 end" in capsys.readouterr().out
