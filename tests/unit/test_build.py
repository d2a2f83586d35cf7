"""The build driver: arguments, and what it puts beside the library."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import build
import flashmla
from buildtools import environments, wheel


def test_arguments_after_two_dashes_are_passed_on():
    options = build.parse(["test", "--", "-k", "plan", "-x"])
    assert options.action is build.command_test
    assert options.rest == ["-k", "plan", "-x"]
    assert build.parse(["demo", "--requests", "3"]).rest == ["--requests", "3"]
    demo = build.parse(["demo", "--cpu-only", "--requests", "3"])
    assert demo.cpu_only
    assert demo.rest == ["--requests", "3"]


@pytest.mark.parametrize("arguments", [["lib", "--sanitize"], ["lib", "--surprise"], []])
def test_test_libraries_never_replace_the_real_one(arguments, capsys):
    with pytest.raises(SystemExit):
        build.parse(arguments)
    assert "error" in capsys.readouterr().err


def test_version_is_that_of_the_package():
    assert build.version() == flashmla.__version__


def test_files_for_c_users_are_complete():
    files = wheel.files_for_c_users()
    assert sorted(Path(place).name for place in files.values()) == [
        *(
            "attention.h",
            "calls.hpp",
            "core.h",
            "dlpack.h",
            "exchange.h",
            "flashmla-config-version.cmake",
            "flashmla-config.cmake",
            "flashmla.h",
            "flashmla.hpp",
            "flashmla.pc",
            "kv_cache.h",
            "plan.h",
            "pool.h",
            "pool.hpp",
            "profile.h",
            "status.hpp",
            "tensor.hpp",
            "tuning.h",
        ),
    ]
    for source, place in files.items():
        text = Path(source).read_text()
        assert not re.search(r"@[A-Z]+@", text)
        for found in re.findall(r"(?:\$\{pcfiledir\}|\$\{CMAKE_CURRENT_LIST_DIR\})/([./a-z]*?)(?=$|[\"\n/]lib)", text):
            assert (Path("/") / place).parent.joinpath(found).resolve().is_relative_to("/flashmla")


def test_extras_hold_what_the_package_needs():
    assert set(build.extras()) < set(build.extras("aot", "test"))
    assert any(requirement.startswith("cffi") for requirement in build.extras())


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    commands = []

    def record(command, **_):
        commands.append([str(part) for part in command])
        (tmp_path / "env" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages").mkdir(
            parents=True, exist_ok=True
        )

    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "run", record)
    python = build.ensure_venv("env", ["numpy"])
    assert python == tmp_path / "env" / "bin" / "python"
    assert commands[0][1:3] == ["-m", "venv"]
    assert commands[-1][-1] == "numpy"
    count = len(commands)
    build.ensure_venv("env", ["numpy"])
    assert len(commands) == count, "the stamp spares the second time"
    build.ensure_venv("env", ["numpy", "cffi"])
    assert len(commands) > count


SUFFIXES = {".c", ".h", ".inc", ".cpp", ".hpp"}


def test_every_c_file_and_shell_script_is_linted():
    """But for what is generated; asked of git, where the tree is a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=build.ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    files = [build.ROOT / name for name in listed.stdout.split("\0") if name]
    files = [path for path in files if path.exists()]
    texts = {path: path.read_bytes() for path in files}
    copies = build.ROOT / "tests" / "abi" / "dlpack"
    c_files = {path for path in files if path.suffix in SUFFIXES and copies not in path.parents}
    assert set(build.c_files()) >= {path for path in c_files if not texts[path].startswith(b"/* Generated")}
    assert set(build.shell_scripts()) >= {path for path in files if re.match(rb"#!.*\b(ba)?sh\n", texts[path])}
