"""The key of a compiled kernel names everything that decides its code: its sources are found by what imports what."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aot import compiling, paths, sources
from dsl_kernels.core.targets import Target
from dsl_kernels.core.variant import Elements
from dsl_kernels.variants import FAMILIES

COMPILER = "made-up compiler 1.0"


def test_the_key_names_everything_that_decides_the_code():
    variant = FAMILIES["dense_decode"].variants[0]
    key = compiling.key_of(variant, "source", COMPILER)
    assert key == compiling.key_of(dataclasses.replace(variant), "source", COMPILER)
    assert key.startswith(variant.name)
    changed = {"target": Target("sm_100a", 100, 1, 1), "elements": Elements("float16"), "kv_format": "v32"}
    others = [
        compiling.key_of(variant, "other source", COMPILER),
        compiling.key_of(variant, "source", "made-up compiler 1.1"),
    ]
    for field in dataclasses.fields(variant):
        other = changed.get(field.name) or getattr(variant, field.name) + 1
        others.append(compiling.key_of(dataclasses.replace(variant, **{field.name: other}), "source", COMPILER))
    assert len({key, *others}) == 1 + len(others)


@pytest.fixture
def copied(monkeypatch, tmp_path) -> Path:
    """A copy of the sources, in which digests are taken."""
    for folder in (paths.KERNELS, paths.AOT):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(paths, "KERNELS", tmp_path / "dsl_kernels")
    monkeypatch.setattr(paths, "AOT", tmp_path / "aot")
    return tmp_path


def digests() -> dict[str, str]:
    return {name: sources.digest(family.module) for name, family in FAMILIES.items()}


# What the table below says of folders; another operation may import what it likes of dsl_kernels/core.
KNOWN = {"dense_decode", "combine", "plan"}


@pytest.mark.parametrize(
    ("edited", "families"),
    [
        ("dsl_kernels/dense_decode/kernel.py", {"dense_decode"}),
        ("dsl_kernels/dense_decode/epilogue.py", {"dense_decode"}),
        ("dsl_kernels/dense_decode/config.py", {"dense_decode"}),
        ("dsl_kernels/dense_decode/shared_memory.py", {"dense_decode"}),
        ("dsl_kernels/dense_decode/barrier_table.py", {"dense_decode"}),
        ("dsl_kernels/combine/params.py", {"combine"}),
        ("dsl_kernels/core/fragments.py", {"dense_decode"}),
        ("dsl_kernels/core/schedule.py", {"dense_decode", "combine", "plan"}),
        ("dsl_kernels/core/threads.py", {"dense_decode", "combine", "plan"}),
        ("dsl_kernels/core/__init__.py", KNOWN),
        ("dsl_kernels/variants.py", set()),
        ("aot/compiling.py", KNOWN),
        ("aot/cubin.py", KNOWN),
        ("aot/checks.py", set()),
        ("aot/embed.py", set()),
    ],
)
def test_an_edit_recompiles_the_operations_that_import_the_file(copied, edited, families):
    before = digests()
    assert before.keys() >= KNOWN
    with (copied / edited).open("a") as file:
        file.write("# changed\n")
    assert {name for name, digest in digests().items() if digest != before[name]} & KNOWN == families


def test_a_helper_that_is_new_decides_the_kernels_that_import_it(copied):
    """Found by import, in a function too, and by no list."""
    helper, before = copied / "dsl_kernels" / "combine" / "budget.py", digests()
    helper.write_text("BYTES = 1\n")
    assert digests() == before
    with (copied / "dsl_kernels" / "combine" / "kernel.py").open("a") as file:
        file.write("\n\ndef late():\n    from dsl_kernels.combine import budget\n    return budget.BYTES\n")
    imports_it = digests()
    helper.write_text("BYTES = 2\n")
    assert {name for name, digest in digests().items() if digest != imports_it[name]} == {"combine"}


IMPORTED = """
import importlib, json, sys
from dsl_kernels.variants import FAMILIES
found = {}
for name, family in FAMILIES.items():
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == "dsl_kernels"]:
        del sys.modules[loaded]
    importlib.import_module(family.module)
    files = [module.__file__ for loaded, module in sys.modules.items() if loaded.split(".")[0] == "dsl_kernels"]
    found[name] = files
print(json.dumps(found))
"""


def test_whatever_a_kernel_really_imports_is_in_its_key():
    if importlib.util.find_spec("cutlass") is None:
        pytest.skip(f"{compiling.COMPILER} is not installed (extra [aot])")
    command = [sys.executable, "-c", IMPORTED]
    ran = subprocess.run(command, cwd=paths.ROOT, check=True, capture_output=True, text=True)
    for name, files in json.loads(ran.stdout).items():
        assert len(files) > 3
        assert set(files) <= {str(path) for path in sources.imported(FAMILIES[name].module).values()}


def test_what_compiles_a_kernel_is_in_its_key():
    """But for what only says where files are and makes the key itself."""
    within = {Path(name).name for name in sources.imported("aot.compiling") if name.startswith("aot/")}
    assert within - {"__init__.py", "paths.py", "sources.py"} == set(sources.DECIDING)


def test_a_line_of_the_table_recompiles_no_other(copied):
    before, config = digests(), copied / "dsl_kernels" / "dense_decode" / "config.py"
    text = config.read_text()
    config.write_text(text.replace("    Variant(HOPPER, BF16, 576, 512, cluster=1),\n", "", 1))
    assert config.read_text() != text
    assert digests() == before
    config.write_text(text.replace("early_steps: int = 4", "early_steps: int = 5"))
    assert digests() != before


def test_where_a_file_lies_counts(copied):
    before, core = digests(), copied / "dsl_kernels" / "core"
    (core / "threads.py").rename(core / "lanes.py")
    for path in (copied / "dsl_kernels").rglob("*.py"):
        path.write_text(path.read_text().replace(".threads import", ".lanes import"))
    moved = digests()
    assert {name for name, digest in moved.items() if digest != before[name]} >= {"dense_decode", "combine"}
