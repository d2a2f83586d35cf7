"""flashmla.metrics(): OpenMetrics text by the rules of its format, and that it counts what happens."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import flashmla
import small
from flashmla._exchange import long_way

TENSORS = small.inputs()
SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>[^{}]*)\})? (?P<value>-?[0-9.e+-]+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels. Fails where the text breaks a rule of OpenMetrics 1.0 that counters meet."""
    assert text.endswith("# EOF\n")
    lines = text.splitlines()
    assert lines.count("# EOF") == 1
    found: dict = {}
    families: list[str] = []
    for line in lines[:-1]:
        if line.startswith("# "):
            _, keyword, family, rest = line.split(" ", 3)
            assert keyword in {"TYPE", "UNIT", "HELP"}
            if keyword == "TYPE":
                assert family not in families, "metrics of a family stand together"
                families.append(family)
                assert rest == "counter"
            assert family == families[-1]
            if keyword == "UNIT":
                assert family.endswith(f"_{rest}")
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        assert sample["name"] in {f"{families[-1]}_total", f"{families[-1]}_created"}
        labels = tuple(LABEL.findall(sample["labels"] or ""))
        assert ",".join(f'{name}="{value}"' for name, value in labels) == (sample["labels"] or "")
        key = sample["name"], labels
        assert key not in found, "samples are there once"
        found[key] = float(sample["value"])
        assert found[key] >= 0
    return found


def counted(name: str, **labels: str) -> float:
    found = parsed(flashmla.metrics())
    return sum(v for (n, have), v in found.items() if n == name and labels.items() <= dict(have).items())


@pytest.fixture(autouse=True)
def counting():
    flashmla.metrics()


def test_the_parser_refuses_what_is_wrong():
    good = flashmla.metrics()
    lines = good.splitlines(keepends=True)
    sample = next(i for i, line in enumerate(lines) if "_total{" in line)
    for wrong in (
        good.removesuffix("# EOF\n"),
        good + "# EOF\n",
        "".join([*lines[: sample + 1], lines[sample], *lines[sample + 1 :]]),
        good.replace("_total{", "_sum{"),
        good.replace("# UNIT flashmla_call_seconds seconds", "# UNIT flashmla_call_seconds bytes"),
        good.replace('operation="', "operation='"),
    ):
        assert wrong != good
        with pytest.raises((AssertionError, IndexError)):
            parsed(wrong)


@pytest.mark.parametrize("way", ["fast", "long"])
def test_calls_and_their_seconds_are_counted(way):
    labels = {"operation": "dense_decode", "device": "cpu"}
    flashmla.dense_decode(*TENSORS)
    calls, seconds = (counted(f"flashmla_{name}_total", **labels) for name in ("calls", "call_seconds"))
    if way == "long":
        with long_way():
            flashmla.dense_decode(*TENSORS)
    else:
        flashmla.dense_decode(*TENSORS)
    assert counted("flashmla_calls_total", **labels) == calls + 1
    assert counted("flashmla_call_seconds_total", **labels) > seconds


@pytest.mark.parametrize("way", ["fast", "long"])
def test_an_error_counts_once_whichever_way_it_went(way):
    wrong = (*TENSORS[:3], TENSORS[3].astype(np.int64))
    labels = {"operation": "dense_decode", "status": "110", "reason": "dtype"}
    before = counted("flashmla_errors_total", **labels)
    flashmla.dense_decode(*TENSORS)

    def call():
        with pytest.raises(flashmla.InvalidArgumentError):
            flashmla.dense_decode(*wrong)

    if way == "long":
        with long_way():
            call()
    else:
        call()
    assert counted("flashmla_errors_total", **labels) == before + 1


def test_a_failure_of_the_machine_counts_once():
    labels = {"operation": "dense_decode", "status": "301"}
    before = counted("flashmla_errors_total", **labels)
    flashmla.fail_next("dense_decode")
    with pytest.raises(flashmla.DeviceError):
        flashmla.dense_decode(*TENSORS)
    assert counted("flashmla_errors_total", **labels) == before + 1


def test_threads_lose_no_count():
    before = counted("flashmla_calls_total", operation="plan_decode")

    def work():
        for _ in range(200):
            flashmla.plan_decode(*TENSORS)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted("flashmla_calls_total", operation="plan_decode") == before + 800


def test_nothing_is_counted_before_it_is_asked_for():
    code = """
import flashmla, small
flashmla.dense_decode(*small.inputs())
print(flashmla.metrics())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    found = parsed(done.stdout.removesuffix("\n"))
    assert {value for (name, _), value in found.items() if name.endswith("_total")} == {0}


def _environment():
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
