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


@pytest.mark.parametrize("error", [KeyboardInterrupt, flashmla.UnsupportedError("no kernel fits")])
def test_where_nothing_was_measured_nothing_is_written(monkeypatch, capsys, tmp_path, error):
    def fails(_):
        raise error

    assert tune_with(monkeypatch, tmp_path, fails, "4,1,16,64") == (_tune.NOTHING, [])
    assert "nothing is written" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_told_before_anything_is_measured(monkeypatch, capsys, tmp_path):
    def never(_):
        raise AssertionError

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "tuned").mkdir()
    for folder in ("nowhere", "here"):
        assert tune_with(monkeypatch, tmp_path / folder, never, "4,1,16,64") == (_tune.NOTHING, [])
        assert "cannot be written" in capsys.readouterr().err


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
