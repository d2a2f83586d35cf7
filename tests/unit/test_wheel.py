"""Wheels and source distributions: what they hold, which glibc they need, and that they run once installed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import build
import flashmla
from buildtools import library, wheel

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("hatchling", "ziglang"))), reason="extra [release] is not installed"
)
RELEASE = tuple(map(int, library.RELEASE_GLIBC.split(".")))
# What a user does first, without NumPy; the rows of the kernel table are what the library itself reports.
FIRST_STEPS = """
import json, sys
sys.modules["numpy"] = None  # importing it fails
import flashmla
print(json.dumps(flashmla.info()))
"""
DECODE = """
import flashmla, numpy as np
q, cache = np.ones((1, 1, 2, 576), np.float32), np.ones((4, 16, 1, 576), np.float32)
out, lse = flashmla.dense_decode(q, cache, np.array([[2, 0]], np.int32), np.array([20], np.int32))
assert (out == 1).all(), out
"""


def run(*command, cwd, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHMLA_", "PYTHON"))}
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env={**kept, **environment})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def unpack(file, folder):
    with zipfile.ZipFile(file) as opened:
        opened.extractall(folder)
    return folder


def check_installed(folder, cwd):
    """The package that lies in `folder` is what runs; returns its facts."""
    facts = json.loads(run(sys.executable, "-c", FIRST_STEPS, cwd=cwd, PYTHONPATH=str(folder)))
    assert facts["library_path"].startswith(str(folder))
    run(sys.executable, "-c", DECODE, cwd=cwd, PYTHONPATH=str(folder))
    return facts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A release's wheel, with the kernels at hand."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=build.ROOT)
    (file,) = folder.iterdir()
    return file


def test_a_wheel_runs_on_the_glibc_of_its_tag(made, tmp_path):
    """The symbol versions that its library needs, read from the file itself."""
    packed = unpack(made, tmp_path) / "flashmla" / build.SONAME
    assert wheel.glibc_needed(packed) <= RELEASE
    tag = f"manylinux_{RELEASE[0]}_{RELEASE[1]}_{os.uname().machine}"
    assert made.name == f"libflashmla-{build.version()}-py3-none-{tag}.whl"
    exported = run("nm", "-D", "--defined-only", packed, cwd=tmp_path).split()[2::3]
    here = run("nm", "-D", "--defined-only", build.PACKAGE / build.SONAME, cwd=tmp_path).split()[2::3]
    assert exported == here, "linkers differ in what they export"
    if shutil.which("auditwheel", path=os.path.dirname(sys.executable)):  # noqa: PTH120
        text = run(sys.executable, "-m", "auditwheel", "show", made, cwd=tmp_path).replace("\n", " ")
        constrained = re.search(r'platform tag: +"manylinux_(\d+)_(\d+)_', text)
        assert tuple(map(int, constrained.groups())) <= RELEASE, text


def test_a_library_for_this_machine_says_which_glibc_it_needs(tmp_path):
    """A wheel that was linked without Zig is not installed where it cannot be imported."""
    source, made = tmp_path / "new.c", tmp_path / "new.so"
    source.write_text("void *dlopen(const char *, int); void *flashmla_new(void) { return dlopen(0, 1); }\n")
    subprocess.run([build.compiler(), "-shared", "-fPIC", source, "-o", made, "-ldl"], check=True)
    needed = wheel.glibc_needed(made)
    newest = max(needed, RELEASE)
    assert wheel.tag(made).startswith(f"py3-none-manylinux_{newest[0]}_{newest[1]}_")
    if tuple(map(int, os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))) >= (2, 34):  # dlopen moved then
        assert needed > RELEASE


def test_an_installed_wheel_has_the_kernels_of_this_tree(made, tmp_path):
    facts = check_installed(unpack(made, tmp_path), tmp_path)
    ours = flashmla.info()
    assert facts["kernels"] == ours["kernels"]
    assert all(row["registers"] > 0 for row in facts["kernels"] if row["target"] != "cpu")
    for fact in ("package_version", "library_version", "abi_version", "cpu_isa"):
        assert facts[fact] == ours[fact]


def test_a_source_distribution_makes_a_wheel(tmp_path):
    """`python -m build` in the tree is PyPA's program: it makes the wheel from the source distribution.

    Without GPU kernels and optimisation, so that it takes seconds.
    """
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"]
    environment = {"CFLAGS": "-O0", wheel.CPU_ONLY: "1", "ZIG_GLOBAL_CACHE_DIR": str(build.BUILD / "zig")}
    run(*command[:-1], tmp_path / "dist", cwd=build.ROOT, **environment)
    (archive,), (file,) = (list((tmp_path / "dist").glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames()}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=build.ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        missing = {name for name in listed.stdout.split("\0") if name and (build.ROOT / name).exists()} - names
        assert missing == set()
    assert {name for name in names if ".so" in name or name.endswith("/_cdef.py")} == set()
    generated = {f"libflashmla/generated/{path.name}" for path in build.GENERATED.glob("*") if path.is_file()}
    assert generated <= names
    facts = check_installed(unpack(file, tmp_path / "site"), tmp_path)
    assert {row["target"] for row in facts["kernels"]} == {"cpu"}


def test_pypa_build_that_is_not_installed_is_named():
    code = "import runpy, sys; sys.path.insert(0, '.'); runpy.run_module('build', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-I", "-S", "-c", code]
    ran = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install build" in ran.stderr
    assert "Traceback" not in ran.stderr
