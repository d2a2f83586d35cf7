"""Tuning files are read as they are described: what is one is taken whole, and nothing else is."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import backends
import flashmla
from benchmarks import digest
from flashmla import _tuning
from tuning import text

KERNELS = flashmla.info()["kernels"]
OPERATIONS = {row["operation"] for row in KERNELS if row["target"] == "cpu"} | {"plan_decode", "plan_sparse_decode"}
GPU_KERNELS = {row["name"] for row in KERNELS if row["target"] != "cpu"}
DIGEST = _tuning.tell()["kernels"]
# A file of the tests is for the stub's GPU: a library that finds another one refuses it.
pytestmark = pytest.mark.skipif(backends.gpu()[0] is not None, reason="files of these tests are for no GPU")


@pytest.fixture(autouse=True)
def forgotten():
    yield
    flashmla.load_tuning(None)


def load(folder, content: bytes) -> str:
    """The sentence of a refusal; "" for a file that is taken."""
    path = folder / "tuned"
    path.write_bytes(content)
    with contextlib.ExitStack() as raised:
        failure = raised.enter_context(pytest.raises(flashmla.InvalidArgumentError))
        flashmla.load_tuning(path)
        raised.pop_all()
        return ""
    assert failure.value.status_name == "FLASHMLA_ERROR_STATE"
    assert str(failure.value).startswith(f'the tuning file "{path}" ')
    return str(failure.value)


def rendered(entry: dict) -> str:
    words = {"kv_format": text.FORMATS[entry["kv_format"]], "l2_policy": text.POLICIES[entry["l2_policy"]]}
    return text.line(entry | words)


def test_what_is_described_is_read(tmp_path):
    entries = [text.STEP, text.STEP | {"kv_format": "v32", "num_splits": 0}, text.STEP | {"operation": "sparse_decode"}]
    content = text.signed((text.head(DIGEST) + "".join(map(text.line, entries))).encode())
    assert load(tmp_path, content) == ""
    assert sorted(map(rendered, _tuning.loaded())) == sorted(map(text.line, entries))
    assert flashmla.info()["tuning"] == {
        "path": str(tmp_path / "tuned"),
        "problem": None,
        "gpu": text.PLACE["gpu"],
        "kernels": DIGEST,
        "count": 3,
    }
    flashmla.load_tuning(None)
    assert flashmla.info()["tuning"] == dict.fromkeys(("path", "problem", "gpu")) | {"kernels": DIGEST, "count": 0}


@pytest.mark.usefixtures("gpu_kernels")
def test_kernels_are_told_as_in_records():
    assert digest.current() == DIGEST


words = st.sampled_from([*text.ORDER, *text.FORMATS, *text.POLICIES, "entry", "end", "\n", " ", "=", "0", "2147483647"])
numbers = st.integers(-1, 2**33).map(str) | st.sampled_from(["2147483647", "2147483648", "00", "1024", "1025"])
pieces = (words | numbers).map(str.encode) | st.binary(max_size=4)


@st.composite
def entries(draw) -> dict:
    found = dict(text.STEP)
    for name in draw(st.lists(st.sampled_from(text.ORDER), max_size=6)):
        if name in text.NUMBERS:
            least, most = text.NUMBERS[name]
            found[name] = draw(
                st.sampled_from([least - 1, least, most, most + 1, 2**32 + 1]) | st.integers(least, most)
            )
        elif name == "kernel":
            found[name] = draw(st.sampled_from(["-", *sorted(GPU_KERNELS), "dense_decode"]))
        else:
            found[name] = draw(st.sampled_from(["dense_decode", "sparse_decode", *text.FORMATS, *text.DTYPES,
                                                *text.POLICIES]))  # fmt: skip
    return found


@st.composite
def contents(draw) -> bytes:
    """Text of files and what is nearly that."""
    made = text.head(DIGEST) + "".join(map(text.line, draw(st.lists(entries(), max_size=3))))
    content = made.encode()
    for _ in range(draw(st.integers(0, 2))):
        begin = draw(st.integers(0, len(content)))
        content = content[:begin] + draw(pieces) + content[begin + draw(st.integers(0, 8)) :]
    return content


@hypothesis.given(content=contents())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_signed_text_is_read_or_refused_as_described(tmp_path, content):
    sentence = load(tmp_path, text.signed(content))
    assert (sentence == "") == text.is_file(content, DIGEST, OPERATIONS, GPU_KERNELS), sentence
    if sentence == "":
        lines = content.decode("latin-1").splitlines(keepends=True)[6:]
        assert sorted(map(rendered, _tuning.loaded())) == sorted(lines)


@st.composite
def changed(draw) -> bytes:
    """A file of which a byte is another one."""
    content = bytearray(text.signed((text.head(DIGEST) + text.line(text.STEP)).encode()))
    at = draw(st.integers(0, len(content) - 1))
    content[at] ^= draw(st.integers(1, 255))
    return bytes(content)


@hypothesis.given(content=st.binary(max_size=200) | contents() | changed())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_text_that_is_not_signed_is_refused(tmp_path, content):
    assert load(tmp_path, content)


def test_a_call_on_the_cpu_asks_no_file(tmp_path):
    content = text.signed((text.head(DIGEST) + text.line(text.STEP)).encode())
    assert load(tmp_path, content) == ""
    q, kv_cache = np.ones((1, 1, 128, 576), "float32"), np.ones((1, 64, 1, 576), "float32")
    with flashmla.profile() as report:
        flashmla.dense_decode(q, kv_cache, np.zeros((1, 1), "int32"), np.full(1, 60, "int32"))
    assert "tuned" not in report.records[-1]["flags"]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flashmla", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_info_tells_of_the_file(tmp_path):
    content = text.signed((text.head(DIGEST) + text.line(text.STEP)).encode())
    path = tmp_path / "tuned"
    path.write_bytes(content)
    told = run("info", FLASHMLA_TUNING=str(path)).stdout
    assert f"tuning    {path}, 1 entries for NVIDIA Stub\n" in told
    path.write_bytes(content[:-1])
    told = run("info", FLASHMLA_TUNING=str(path)).stdout
    assert f"tuning    {path} is not used: it is cut off: its last line is missing\n" in told
    assert "warning   FLASHMLA_TUNING is " in told
    assert "tuning " not in run("info").stdout


def test_without_a_gpu_tune_says_so(cpu_only_library):
    for variables in ({}, {"FLASHMLA_LIBRARY": str(cpu_only_library)}):
        ran = run("tune", **variables)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith("no GPU: ")
        assert ran.stderr.count("\n") == 1
        assert "on the CPU there is nothing to tune: " in ran.stderr


def test_a_name_is_the_whole_name(tmp_path):
    """C would take what is before a null character: another file."""
    assert load(tmp_path, text.signed(text.head(DIGEST).encode())) == ""
    for use in (flashmla.load_tuning, lambda path: _tuning.save(path, 0, [])):
        with pytest.raises(flashmla.InvalidArgumentError, match="null character"):
            use(f"{tmp_path / 'tuned'}\0.old")
    assert flashmla.info()["tuning"]["path"] == str(tmp_path / "tuned")


def test_names_and_texts_that_are_no_utf8_are_told(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe" + 200 * b"\xc3\xa4"[:1]
    content = text.signed(text.head(DIGEST, gpu="\xff\xfe").encode("latin-1"))
    file = pathlib.Path(os.fsdecode(path))
    file.write_bytes(content)
    flashmla.load_tuning(path)
    assert flashmla.info()["tuning"]["gpu"] == "\ufffd\ufffd"
    file.write_bytes(content[:-1])
    with pytest.raises(flashmla.InvalidArgumentError, match="is cut off"):
        flashmla.load_tuning(path)


LIMITED = """
import resource, sys
import flashmla
bytes_now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (bytes_now + (64 << 20),) * 2)
try:
    flashmla.load_tuning(sys.argv[1])
except flashmla.FlashMLAError as error:
    print(error.status_name)
"""


@pytest.mark.parametrize("line", [b"\n", b"entry \n"], ids=repr)
def test_memory_follows_from_what_may_be_entries(tmp_path, line):
    """Millions of lines that are none take no gigabyte."""
    path = tmp_path / "lines"
    path.write_bytes((text.head(DIGEST).encode() + line * ((16 << 20) // len(line)))[: 16 << 20])
    ran = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    assert ran.stdout == "FLASHMLA_ERROR_STATE\n", ran.stdout + ran.stderr
