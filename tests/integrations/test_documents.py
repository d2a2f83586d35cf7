"""The snippets of docs/models.md run, one behind another, and its table of lengths is that of the code."""

import pathlib
import re

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from flashmla.integrations import transformers as integration  # noqa: E402 - behind what may be missing
from flashmla.integrations._latent_attention import KvUpProjection  # noqa: E402

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()


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


def test_the_lengths_from_which_keys_are_projected_up():
    rows = re.findall(r"^\| [^|]+ \| (\d+) \| (\d+), (\d+) \| (\d+)", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for rank, d_nope, d_v, least in ([int(cell) for cell in row] for row in rows):
        assert KvUpProjection(torch.empty(4 * (d_nope + d_v), rank), 4, d_nope).pays_from == least
