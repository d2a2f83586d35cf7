"""C programs find an installed library through pkg-config and through CMake."""

import re
import shutil
import subprocess

import pytest

import build

EXAMPLE = build.ROOT / "examples" / "c" / "decode.c"


def fill(template, target, **values):
    text = (build.ROOT / "libflashmla" / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    assert not re.search(r"@[A-Z]+@", text)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


@pytest.fixture
def prefix(tmp_path):
    """An installation in the usual folders, moved after it was made."""
    made = tmp_path / "made"
    shutil.copytree(build.INCLUDE, made / "include")
    (made / "lib").mkdir()
    shutil.copy(build.PACKAGE / build.SONAME, made / "lib")
    fill(
        "flashmla.pc.in",
        made / "lib" / "pkgconfig" / "flashmla.pc",
        VERSION=build.version(),
        LIBDIR="..",
        INCLUDEDIR="../../include",
    )
    for name in ["flashmla-config.cmake", "flashmla-config-version.cmake"]:
        fill(
            f"cmake/{name}.in",
            made / "lib" / "cmake" / "flashmla" / name,
            VERSION=build.version(),
            LIBDIR="../..",
            INCLUDEDIR="../../../include",
        )
    return made.rename(tmp_path / "moved")


def check_example(program):
    ran = subprocess.run([program], check=True, capture_output=True, text=True, env={})
    assert "worst difference from the plain loop" in ran.stdout


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="pkg-config is not installed")
def test_pkg_config(prefix, tmp_path):
    asked = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "flashmla"],
        check=True,
        capture_output=True,
        text=True,
        env={"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig"), "PATH": "/usr/bin:/bin"},
    )
    program = tmp_path / "decode"
    subprocess.run([build.compiler(), EXAMPLE, *asked.stdout.split(), "-lm", "-o", program], check=True)
    check_example(program)


@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")
@pytest.mark.parametrize(
    ("wanted", "found"), [("0.2", True), ("0.2.0 EXACT", True), ("0.1", False), ("0.3", False), ("1.0", False)]
)
def test_cmake(prefix, tmp_path, wanted, found):
    project = tmp_path / "project"
    project.mkdir()
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\n"
        "project(example C)\n"
        f"find_package(flashmla {wanted} REQUIRED CONFIG)\n"
        f"add_executable(decode {EXAMPLE})\n"
        "target_link_libraries(decode PRIVATE flashmla::flashmla m)\n"
    )
    configure = ["cmake", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={prefix}"]
    configured = subprocess.run(configure, capture_output=True, text=True, check=False)
    assert (configured.returncode == 0) == found, configured.stderr
    if found:
        subprocess.run(["cmake", "--build", project / "build"], check=True, capture_output=True)
        check_example(project / "build" / "decode")
