"""The serving demo of examples/python: its traffic, and small runs from end to end."""

import importlib.util
import pathlib
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "python"))

import flashmla
import serve
import traffic

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


def test_prompts_begin_with_one_of_a_few_and_go_on_by_themselves():
    prompts = traffic.Prompts(2, 50, vocabulary=512, seed=3)
    found = [prompts.of(traffic.Request(number, 0.0, 80, 1)) for number in range(8)]
    assert found == [prompts.of(traffic.Request(number, 0.0, 80, 1)) for number in range(8)]
    assert {len(prompt) for prompt in found} == {80}
    assert found[0][:50] == found[4][:50] != found[2][:50]
    assert found[2][:50] == found[6][:50]
    assert len({tuple(prompt[50:]) for prompt in found}) == 8
    assert len({tuple(found[number][:50]) for number in (1, 3, 5, 7)}) == 4
    assert prompts.of(traffic.Request(0, 0.0, 30, 1)) == found[0][:30]


@pytest.fixture
def small(tmp_path):
    """Options of a small run, and where its picture goes."""
    picture = tmp_path / "here" / "demo.svg"
    sizes = ["--requests=6", "--heads=3", "--layers=2", "--shorten=16", "--max-batch=3", "--prefix-tokens=70"]
    return ["--device=cpu", *sizes, "--check-every=3", f"--picture={picture}"], picture


def row(said, name):
    return next(line.split(name, 1)[1].strip() for line in said.splitlines() if line.strip().startswith(name))


@pytest.mark.parametrize("sparse", [[], ["--sparse=20"], ["--sparse=100000"]], ids=["dense", "sparse", "all"])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_small_run(framework, sparse, small, capsys):
    if framework != "numpy":
        pytest.importorskip(framework)
    options, picture = small
    assert serve.main([*options, *sparse, f"--framework={framework}"]) == 0
    said = capsys.readouterr().out
    assert row(said, "requests finished") == "6"
    assert "FAILED" not in said
    assert row(said, "pages used").endswith("; 0 at the end")
    operation = "sparse_decode" if sparse else "dense_decode"
    assert "calls" in row(said, operation)
    assert int(row(said, "compared").split()[0]) > 0
    assert ET.fromstring(picture.read_text()).tag.endswith("svg")
    assert "pages used" in said[said.index("tokens/s generated") :], "the picture in the terminal comes last"


def test_a_small_pool_swaps_and_a_small_host_pool_begins_anew(small, capsys):
    options, _ = small
    sizes = ["--requests=12", "--shorten=8", "--max-batch=6", "--pages=9", "--heads=1", "--layers=1"]
    tight = [*options, *sizes, "--step-ms=1", "--load=100"]
    assert serve.main([*tight, "--framework=numpy"]) == 0
    swapped = row(capsys.readouterr().out, "swapped out")
    assert int(swapped.split()[0]) > 0
    assert "anew" not in swapped
    assert serve.main([*tight, "--framework=numpy", "--host-pages=1"]) == 0
    assert " begun anew" in row(capsys.readouterr().out, "swapped out")


def test_prompts_that_begin_alike_share_pages(small, capsys):
    options, _ = small
    assert serve.main([*options, "--framework=numpy", "--prefixes=1", "--requests=10", "--shorten=4"]) == 0
    shared = row(capsys.readouterr().out, "shared pages")
    assert int(shared.split("; ")[1].split()[0]) >= 64


def test_a_small_replay_is_repeatable(small, tmp_path, capsys):
    path = tmp_path / "trace.csv"
    path.write_text(CSV)
    options, _ = small
    options = [*options, "--framework=numpy", "--heads=2", "--shorten=1", "--check-every=1", "--trace", str(path)]
    said = []
    for _ in range(2):
        assert serve.main(options) == 0
        said.append(row(capsys.readouterr().out, "digest of the tokens"))
    assert said[0] == said[1]


@pytest.mark.parametrize(("operation", "more"), [("dense_decode", []), ("sparse_decode", ["--sparse=30"])])
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_wrong_result_ends_in_failure(monkeypatch, small, capsys, framework, operation, more):
    if framework != "numpy":
        pytest.importorskip(framework)
    right = getattr(flashmla, operation)

    def wrong(*arguments, **options):
        out = right(*arguments, **options)
        out[..., 7] *= 1.5
        return out

    monkeypatch.setattr(flashmla, operation, wrong)
    assert serve.main([*small[0], *more, f"--framework={framework}"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_lost_page_ends_in_failure(monkeypatch, small, capsys):
    free = flashmla.PagedKVCache.free
    freed = []

    def lose_the_last(self, seq):
        freed.append(seq)
        if len(freed) < 6:
            free(self, seq)

    monkeypatch.setattr(flashmla.PagedKVCache, "free", lose_the_last)
    assert serve.main([*small[0], "--framework=numpy", "--pages=200"]) == 1
    assert "of 1 sequences are still in use" in capsys.readouterr().out


def test_a_request_that_is_longer_than_the_pool_is_refused(small, capsys):
    assert serve.main([*small[0], "--framework=numpy", "--pages=1", "--shorten=4"]) == 0
    assert "refused (longer than the pool)" in row(capsys.readouterr().out, "requests finished")


def test_a_missing_trace_is_said(capsys):
    assert serve.main(["--device=cpu", "--trace=/nonexistent.csv"]) == 2
    assert "nonexistent.csv" in capsys.readouterr().err


def test_a_run_that_served_nothing_proves_nothing(small, capsys):
    assert serve.main([*small[0], "--framework=numpy", "--pages=1", "--shorten=1"]) == 1
    said = capsys.readouterr().out
    assert row(said, "requests finished") == "0, 6 refused (longer than the pool)"
    assert "FAILED: nothing was compared" in said


@pytest.mark.parametrize("option", ["--seconds=nan", "--load=inf", "--step-ms=0", "--load=x", "--pages=0"])
def test_figures_that_make_no_sense_are_refused(small, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        serve.main([*small[0], option])
    assert option.partition("=")[0] in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_told_before_the_run(small, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert serve.main([*small[0], "--framework=numpy", f"--picture={tmp_path / 'file' / 'demo.svg'}"]) == 2
    told = capsys.readouterr()
    assert "file" in told.err
    assert told.out == ""


@pytest.mark.parametrize(("framework", "reason"), [("cupy", "CuPy"), ("torch", "PyTorch is not installed")])
def test_a_framework_that_cannot_serve_is_named(monkeypatch, small, framework, reason):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=reason):
        serve.main([*small[0], f"--framework={framework}"])


def test_the_commands_of_the_readme_are_those_of_the_demo():
    text = (pathlib.Path(serve.__file__).parents[2] / "README.md").read_text()
    commands = [line.partition("#")[0].split() for line in re.findall(r"build\.py demo +(-.*)", text)]
    assert [serve.parse(command).sparse for command in commands] == [None, None, 512]
