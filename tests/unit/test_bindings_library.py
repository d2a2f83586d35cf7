"""How the library is found and refused, what `info` tells, and what an import costs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import build
import flashmla
import isas
import operations
from environment import variable
from flashmla import _library

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(flashmla.__file__).parent
HEADERS = build.header_text()


def python(code, **environment):
    """A fresh interpreter that sees the package."""
    paths = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )


def compiled(tmp_path, text):
    """A shared library from C text."""
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text(text)
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    return library


def test_another_abi_is_refused_with_both_numbers_and_the_path(tmp_path):
    library = compiled(tmp_path, "int flashmla_abi_version(void) { return 77; }")
    code = "try:\n import flashmla\nexcept ImportError as e: print(type(e).__name__, e.status, e)"
    done = python(code, FLASHMLA_LIBRARY=str(library))
    assert done.stdout == (
        f"ABIMismatchError 200 {library} has ABI 77, this package was made for ABI {_library.ABI_VERSION}\n"
    )


def test_a_library_of_another_kind_is_refused(tmp_path):
    library = compiled(tmp_path, "int unrelated;")
    done = python("import flashmla", FLASHMLA_LIBRARY=str(library))
    assert f"{library}: not libflashmla, flashmla_abi_version is missing" in done.stderr


def test_a_forced_library_is_the_only_one_tried():
    done = python("import flashmla", FLASHMLA_LIBRARY="/nowhere/libflashmla.so")
    told = "libflashmla.so.2 cannot be loaded: FLASHMLA_LIBRARY is set: cannot load library '/nowhere/libflashmla.so'"
    assert f"ImportError: {told}" in done.stderr


def test_a_system_library_is_found_by_its_soname(tmp_path):
    package, system = tmp_path / "flashmla", tmp_path / "system"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.so*", "__pycache__"))
    system.mkdir()
    shutil.copy(_library.PATH, system / _library.SONAME)
    done = python(
        "import flashmla; print(flashmla.info()['library_path'])",
        PYTHONPATH=str(tmp_path),
        LD_LIBRARY_PATH=str(system),
    )
    assert done.stdout.strip() == str((system / _library.SONAME).resolve()), done.stderr


def test_versions_are_those_of_the_headers():
    numbers = [re.search(rf"#define FLASHMLA_VERSION_{part} (\d+)", HEADERS)[1] for part in ("MAJOR", "MINOR", "PATCH")]
    assert flashmla.__version__ == ".".join(numbers)
    assert int(re.search(r"#define FLASHMLA_ABI_VERSION (\d+)", HEADERS)[1]) == _library.ABI_VERSION


def test_every_function_of_the_headers_is_bound():
    declared = re.findall(r"^FLASHMLA_API .*?(flashmla_\w+)\(", HEADERS, re.MULTILINE)
    assert len(declared) > 10
    assert [name for name in declared if not hasattr(_library.lib, name)] == []


def test_info():
    facts = flashmla.info()
    assert facts["library_version"] == facts["package_version"] == flashmla.__version__
    assert Path(facts["library_path"]).stat().st_size == facts["library_bytes"]
    assert facts["cpu_isa"] in isas.NAMES
    assert (facts["driver_version"] is None) != (facts["driver_error"] is None)
    cpu = [kernel for kernel in facts["kernels"] if kernel["target"] == "cpu"]
    decode = [kernel for kernel in cpu if kernel["operation"] == "dense_decode"]
    assert {kernel["dtype"] for kernel in decode} == {"bfloat16", "float16", "float32"}
    assert {kernel["operation"] for kernel in cpu} <= set(operations.NAMES)
    assert set(cpu[0]) == {
        *("name", "operation", "dtype", "target", "min_driver", "registers", "shared_bytes", "threads"),
    }


def test_info_of_a_variable_that_is_no_text():
    with variable("FLASHMLA_LOG", "\udcff"):  # the byte 0xff
        assert flashmla.info()["environment_error"] == 'FLASHMLA_LOG is "\ufffd"; it must be 0 or 1'


def test_info_on_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "flashmla", "info"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    facts = flashmla.info()
    for expected in (flashmla.__version__, facts["library_path"], facts["cpu_isa"], "dense_decode_bf16_cpu"):
        assert expected in done.stdout


@pytest.mark.parametrize("command", [["flashmla", "info"], ["aot", "list"]], ids=" ".join)
def test_a_reader_that_leaves_early_sees_no_traceback(command):
    """As `info | head` does."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    with subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == b""


def test_import_brings_no_framework():
    loaded = python(
        "import flashmla, sys; print(*sorted(name for name in sys.modules if '.' not in name))"
    ).stdout.split()
    assert not set(loaded) & {"cffi", "pycparser", "numpy", "torch", "jax", "cupy", "ml_dtypes"}


def test_import_is_quick_beyond_numpy():
    """At most 100 ms of the processor; the best of three, since other work on the machine only adds."""
    code = (
        "import numpy, time; start = time.process_time(); import flashmla;print(1000 * (time.process_time() - start))"
    )
    assert min(float(python(code).stdout) for _ in range(3)) <= 100
