"""The contenders of benchmarks/transformers_decode.py say the same, on the CPU with a still smaller model."""

import importlib
import pathlib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


def test_contenders_decode_the_same_sequences(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("transformers_decode")
    monkeypatch.setattr(benchmark, "STEPS", 2)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32, "vocab_size": 512}
    found = benchmark.measure(benchmark.make_model("cpu", q_lora_rank=32, **sizes), batch=3, context=70, rounds=2)
    assert set(found["tokens_per_s"]) == {"flashmla", "sdpa", "eager"}
    assert all(speed > 0 for speed in found["tokens_per_s"].values())
    assert found["apart_from_eager"]["flashmla"] < 0.03
