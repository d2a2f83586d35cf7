"""Which shapes are tuned: in words, of a profile, by default."""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import replace

import pytest

import build
import flashmla
from flashmla._tune_cases import DEFAULT, SPARSE, by_shape, of_profile, parsed


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


def test_the_cases_of_the_document_are_cases():
    texts = re.findall(r"--case (\S+)", (build.ROOT / "docs" / "tuning.md").read_text())
    assert [parsed(text).shape.operation for text in texts] == ["dense_decode", SPARSE]
