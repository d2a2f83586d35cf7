"""The snippets of docs/models.md run, one behind another, and its tables are those of the code and of the record."""

import json
import pathlib
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from flashmla.integrations import transformers as integration  # noqa: E402 - behind what may be missing
from flashmla.integrations._latent_attention import KvUpProjection  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text()


def test_the_snippets_run():
    names: dict = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(snippet, "models.md", "exec"), names)
    assert names["logits"].shape == (2, 1000)
    assert names["out"].shape == (4, 64)
    assert bool(names["out"].isfinite().all())


def test_the_configurations_are_those_of_the_code():
    named = re.findall(r"`(\w+Config)`", PAGE)
    assert set(named) == integration.CONFIGS


def records(benchmark):
    found = map(json.loads, (ROOT / "benchmarks" / "results" / "h200-models.jsonl").read_text().splitlines())
    return [record for record in found if record["benchmark"] == benchmark]


def test_decode_speeds_are_those_of_the_last_record():
    last = {tuple(record["case"]): record["tokens_per_s"] for record in records("transformers_decode")}
    names = "flashmla_graph", "flashmla", "eager", "sdpa"
    for case, speeds in last.items():
        cells = [f"{round(speeds[name], -1):,.0f}" for name in names]
        assert f"| {case[0]} | {case[1]:,} | {' | '.join(cells)} |" in PAGE


def test_times_of_both_forms_are_those_of_the_record():
    times = {(record["heads"], record["prompt"]): record["us"] for record in records("prefill_forms")}
    for heads in 16, 128:
        found = (times[heads, prompt] for prompt in (128, 256, 1024, 4096))
        cells = [f"{us['absorbed']:.0f} / {us['projected_up']:.0f}" for us in found]
        assert f"| {heads} | {' | '.join(cells)} |" in PAGE


def test_the_lengths_from_which_keys_are_projected_up():
    rows = re.findall(r"^\| [^|]+ \| (\d+) \| (\d+), (\d+) \| (\d+)", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for rank, d_nope, d_v, least in ([int(cell) for cell in row] for row in rows):
        assert KvUpProjection(torch.empty(4 * (d_nope + d_v), rank), 4, d_nope).pays_from == least
