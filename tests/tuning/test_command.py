"""`python -m flashmla tune`: what it says and writes, with searches that are made up."""

from __future__ import annotations

import argparse
import json
import sys
from types import SimpleNamespace

import pytest

import flashmla
from flashmla import _tune, _tune_device, _tuning
from flashmla._tune_search import BY_RULE, Found
from tuning.on_cpu import TorchOnCpu


def test_a_profile_of_the_cpu_has_nothing_to_tune(tmp_path, capsys):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"groups": []}))
    parser = argparse.ArgumentParser()
    _tune.add_arguments(parser)
    assert _tune.main(parser.parse_args(["--profile", str(path)])) == _tune.NOTHING
    assert "no calls" in capsys.readouterr().err


def tune_with(monkeypatch, tmp_path, run, *texts: str):
    """(exit status, what was saved) of a tuner whose searches are `run`; nothing is written."""
    saved = []

    class Search:
        def __init__(self, *facts) -> None:
            _, _, self.shape, _ = facts

        def run(self) -> Found:
            return run(self.shape)

    monkeypatch.setattr(_tune, "torch_for", lambda _: TorchOnCpu())
    monkeypatch.setattr(_tune, "Search", Search)
    monkeypatch.setattr(_tuning, "save", lambda path, device, made: saved.append((path, device, made)))
    monkeypatch.setattr(_tuning, "load_tuning", lambda _: None)
    parser = argparse.ArgumentParser()
    _tune.add_arguments(parser)
    given = [word for text in texts for word in ("--case", text)]
    return _tune.main(parser.parse_args([*given, "--output", str(tmp_path / "tuned")])), saved


@pytest.fixture
def tune_on_stub(cuda_12_0):
    """Status, lines and errors of `tune` on the stub driver. A search finds num_splits 2, but ends as `ends` says."""

    def run(*arguments, ends=""):
        code = f"""
import argparse, contextlib, io
from types import SimpleNamespace
from flashmla import _tune
from flashmla._tune_search import Found

class Search:
    def __init__(self, caches, device_id, shape, tokens):
        self.shape = shape
    def run(self):
        {ends or "pass"}
        return Found(self.shape, (("num_splits", 2),), 9.0, 10.0, 3)

_tune.Search = Search
_tune.torch_for = lambda device: SimpleNamespace()
parser = argparse.ArgumentParser()
_tune.add_arguments(parser)
out, error = io.StringIO(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
    status = _tune.main(parser.parse_args({list(arguments)!r}))
tell(status, out.getvalue(), error.getvalue())
"""
        return cuda_12_0.run(code).told[0]

    return run


def test_what_is_wrong_is_told_before_anything_is_measured(tune_on_stub, tmp_path):
    at = tmp_path / "tuned"
    for case, words in [
        ("4,1,16,64,varlen=2", "varlen is 2; it must be in [0, 1]"),
        ("4,1,16,99999999999999999999", "capacity_from is "),
        ("4,1,16,64,dtype=bf16", 'dtype is "bf16", which this library does not know'),
    ]:
        status, out, error = tune_on_stub("--case", case, "--output", str(at))
        assert (status, out, words in error) == (2, "", True), (out, error)
        assert list(tmp_path.glob("tuned*")) == []
    for output in (tmp_path, tmp_path / "none" / "tuned"):
        status, out, error = tune_on_stub("--case", "4,1,16,64", "--output", str(output))
        assert (status, out, "which cannot be written: " in error) == (2, "", True), (out, error)


def test_a_file_stays_where_nothing_was_measured(tune_on_stub, tmp_path):
    at = tmp_path / "tuned"
    given = ("--case", "4,1,16,64", "--case", "2,1,16,64", "--output", str(at))
    failing = "raise KeyboardInterrupt", "raise RuntimeError('CUDA error')"
    for ends in failing:
        status, _, error = tune_on_stub(*given, ends=ends)
        assert (status, at.exists()) == (2, False)
        assert f"nothing was measured, and {at} is not written" in error
    status, out, error = tune_on_stub(*given, ends="if self.shape.batch == 2: raise RuntimeError('CUDA error')")
    assert status == 0, error
    assert "left out, CUDA error" in out, "of one shape: what was found of others is written"
    content = at.read_bytes()
    assert content.count(b"\nentry ") == 1
    for ends in failing:
        assert tune_on_stub(*given, ends=ends)[0] == 2
        assert at.read_bytes() == content
    assert [path.name for path in tmp_path.glob("tuned*")] == ["tuned"]


@pytest.mark.parametrize(
    ("name", "value"), [("FLASHMLA_FORCE_KERNEL", "dense_decode_bf16_576_cluster1"), ("FLASHMLA_CHECK", "1")]
)
def test_settings_that_times_are_no_times_with_are_refused(monkeypatch, capsys, name, value):
    """A forced kernel has no rivals, and checks are launches beside the call's."""
    parser = argparse.ArgumentParser()
    _tune.add_arguments(parser)
    monkeypatch.setenv(name, value)
    assert _tune.main(parser.parse_args(["--case", "4,1,16,64"])) == _tune.NOTHING
    assert f"{name} is set: " in capsys.readouterr().err
    monkeypatch.setenv(name, "0")
    _tune.main(parser.parse_args(["--case", "nonsense"]))
    assert "is set" not in capsys.readouterr().err


@pytest.mark.parametrize("device", [-1, 1])
def test_a_gpu_that_is_not_there_is_named(monkeypatch, device):
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1, set_device=lambda _: None)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    facts = {"driver_version": 12040, "kernels": [{"target": "sm_90a"}]}
    monkeypatch.setattr(_tune_device, "info", lambda: facts)
    assert _tune_device.torch_for(0).cuda is cuda
    with pytest.raises(flashmla.UnsupportedError, match=f"no CUDA device {device}"):
        _tune_device.torch_for(device)


def test_what_was_found_is_written(monkeypatch, capsys, tmp_path):
    """Of the shapes that could be measured, and before an interruption."""

    def run(shape) -> Found:
        if shape.batch == 3:
            raise flashmla.UnsupportedError("no kernel of this library fits the call")
        if shape.batch == 1:
            raise KeyboardInterrupt
        choice = (("num_splits", 2),) if shape.batch == 4 else BY_RULE
        return Found(shape, choice, 9.0, 10.0, 3, ((("num_splits", 7),), 0.99))

    texts = ["4,1,16,64", "3,1,16,64", "2,1,16,64", "1,1,16,64"]
    status, saved = tune_with(monkeypatch, tmp_path, run, *texts)
    assert status == 0
    (_, _, tried), (path, device, made) = saved
    assert (path, device) == (tmp_path / "tuned", 0)
    assert [entry["batch_from"] for entry in tried] == [4, 3, 2, 1], "what C refuses of shapes is told first"
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
