"""What the documents say is what the tree does: snippets run, tables match the header and the records, links lead somewhere."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = ROOT / "libflashmla" / "include" / "flashmla" / "flashmla.h"
README = (ROOT / "README.md").read_text()
USAGE = (ROOT / "docs" / "usage.md").read_text()
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").glob("*.md"))
PYTHON_CLASSES = {"1": "`InvalidArgumentError`", "2": "`UnsupportedError`", "3": "`DeviceError`"}


def snippet(language: str) -> str:
    """The first block of a language in the README."""
    found = re.search(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def library() -> pathlib.Path:
    import flashmla

    return pathlib.Path(flashmla.info()["library_path"])


def test_the_python_snippet_runs():
    import flashmla

    names: dict = {}
    exec(compile(snippet("python"), "README.md", "exec"), names)
    assert names["out"].shape == (2, 1, 16, 512)
    assert names["lse"].shape == (2, 16, 1)
    assert names["flashmla"] is flashmla


def test_the_c_snippet_compiles_and_runs(tmp_path):
    source, program = tmp_path / "decode.c", tmp_path / "decode"
    source.write_text(snippet("c"))
    path = library()
    include = f"-I{HEADER.parents[1]}"
    compiler = os.environ.get("CC", "gcc")
    command = [compiler, "-Wall", "-Wextra", "-Werror", source, include, path, f"-Wl,-rpath,{path.parent}", "-o", program]
    subprocess.run(command, check=True)
    assert subprocess.run([program], check=True, capture_output=True, text=True).stdout == "0\n"


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_quickstarts_run_on_the_cpu(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    script = ROOT / "examples" / "python" / f"quickstart_{name}.py"
    subprocess.run([sys.executable, script], check=True, capture_output=True, env=environment)


def test_the_error_table_is_that_of_the_header():
    enumerators = re.findall(r"^  (FLASHMLA_(?:OK|ERROR_\w+)) = (\d+),?(?: +/\* (.*) \*/)?$", HEADER.read_text(), re.MULTILINE)
    assert len(enumerators) > 15
    expected = [
        f"| {number} | `{name}` | {meaning or 'success'} | {PYTHON_CLASSES.get(number[0], '')} |"
        for name, number, meaning in enumerators
    ]
    assert [line for line in USAGE.splitlines() if re.match(r"\| \d+ \|", line)] == expected


def test_the_performance_section_is_that_of_the_records():
    spec = importlib.util.spec_from_file_location("performance", ROOT / "docs" / "performance.py")
    performance = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(performance)
    assert performance.parts(README)[1] == performance.section(performance.gpu_records()), "run python docs/performance.py"


def test_every_environment_variable_is_listed():
    read = re.compile(r"""(?:getenv\(|environ(?:\.get)?[\[(])\s*"(FLASHMLA_\w+)""")
    places = [*(ROOT / "libflashmla" / "src").rglob("*.c"), *(ROOT / "bindings").rglob("*.py")]
    found = {name for path in places for name in read.findall(path.read_text())}
    assert found == set(re.findall(r"^\| `(FLASHMLA_\w+)` \|", README, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_exist(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert (document.parent / target.partition("#")[0]).exists(), target
    # Paths in backquotes are meant from the root of the tree; generated and ignored ones are left out.
    for path in re.findall(r"`((?:aot|benchmarks|bindings|docs|dsl_kernels|examples|libflashmla|tests)/[\w./-]+)`", text):
        if "generated" not in path:
            assert (ROOT / path).exists(), path
