"""C and C++ programs find an installed library through pkg-config and through CMake, shared and static."""

import os
import re
import shutil
import subprocess
import sys

import pytest

import build

EXAMPLES = {"C": build.ROOT / "examples" / "c" / "decode.c", "CXX": build.ROOT / "examples" / "cpp" / "server.cpp"}
LANGUAGES = {"gcc": "C", "clang": "C", "g++": "CXX", "clang++": "CXX"}
SIGNS = {"C": "worst difference from the plain loop", "CXX": "20 cached, 0 used"}
# Names nothing of any operation, so that only the archive's own references can bring them in.
COUNT = """#include <flashmla/flashmla.h>
#include <stdio.h>
int main(void) { return printf("%d kernels, %s\\n", (int)flashmla_kernel_count(), flashmla_cpu_isa()) < 0; }
"""


def install(prefix, **environment):
    """As a machine with Python's standard library, a C compiler and nothing else does it."""
    command = [sys.executable, "-I", "-S", build.ROOT / "build.py", "install", "--cpu-only", "--prefix", prefix]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})


def needs(*tools):
    return [pytest.mark.skipif(not shutil.which(tool), reason=f"{tool} is not installed") for tool in tools]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """An installation, moved after it was made."""
    folder = tmp_path_factory.mktemp("installed")
    install(folder / "made")
    return (folder / "made").rename(folder / "moved")


@pytest.fixture(params=[pytest.param(name, marks=needs(name)) for name in LANGUAGES])
def compiler(request):
    return request.param


def output_of(*program, **environment):
    return subprocess.run(program, check=True, capture_output=True, text=True, env=environment).stdout


def check_example(program, compiler):
    assert SIGNS[LANGUAGES[compiler]] in output_of(program)


def packaged(prefix, *asked):
    folder = str(prefix / "lib" / "pkgconfig")
    return output_of("pkg-config", *asked, "flashmla", PKG_CONFIG_PATH=folder, PATH="/usr/bin:/bin").split()


def test_an_installation_is_whole_and_names_no_place(prefix):
    files = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir()}
    assert files == {
        *(f"include/{path.relative_to(build.INCLUDE)}" for path in build.INCLUDE.rglob("*.h*")),
        *("lib/libflashmla.a", "lib/libflashmla.so", f"lib/{build.SONAME}", f"lib/libflashmla.so.{build.version()}"),
        "lib/pkgconfig/flashmla.pc",
        *(f"lib/cmake/flashmla/flashmla-config{version}.cmake" for version in ("", "-version")),
        "share/licenses/flashmla/LICENSE",
    }
    for name, target in [("libflashmla.so", build.SONAME), (build.SONAME, f"libflashmla.so.{build.version()}")]:
        assert str((prefix / "lib" / name).readlink()) == target
    for path in [*prefix.rglob("*.pc"), *prefix.rglob("*.cmake")]:
        assert not re.search(r"@[A-Z]+@", path.read_text())
        assert str(prefix.parent) not in path.read_text()


def test_destdir_comes_before_the_prefix(tmp_path):
    install("/opt/flashmla", DESTDIR=str(tmp_path))
    assert (tmp_path / "opt" / "flashmla" / "lib" / build.SONAME).exists()


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="pkg-config is not installed")
@pytest.mark.parametrize("form", ["shared", "static"])
def test_pkg_config(prefix, tmp_path, compiler, form):
    flags = packaged(prefix, "--cflags", "--libs")
    if form == "static":
        private = packaged(prefix, "--static", "--libs")
        assert private[: len(flags) - 1] == flags[1:]
        flags = [flags[0], *packaged(prefix, "--variable=archive"), *private[len(flags) - 1 :]]
    program, language = tmp_path / "example", LANGUAGES[compiler]
    standard = ["-std=c++17"] if language == "CXX" else []
    subprocess.run([compiler, *standard, EXAMPLES[language], *flags, "-lm", "-o", program], check=True)
    check_example(program, compiler)
    needed = output_of("readelf", "-dW", program)
    assert (build.SONAME in needed) == (form == "shared")


@pytest.mark.parametrize(
    "collect",
    [
        pytest.param(["-Wl,--gc-sections"], id="bfd"),
        pytest.param(["-Wl,--gc-sections", "-fuse-ld=gold"], id="gold", marks=needs("ld.gold")),
        pytest.param(["-Wl,--gc-sections", "-fuse-ld=lld"], id="lld", marks=needs("ld.lld")),
    ],
)
def test_the_archive_keeps_every_operation_and_variable(prefix, tmp_path, collect):
    source, libraries = tmp_path / "count.c", ["-lm", "-lpthread", "-ldl"]
    source.write_text(COUNT)
    counts = []
    for form in ([f"-L{prefix / 'lib'}", "-lflashmla", f"-Wl,-rpath,{prefix / 'lib'}"], [prefix / "lib/libflashmla.a"]):
        program = tmp_path / "count"
        line = [build.compiler(), source, f"-I{prefix / 'include'}", *form, *libraries, *collect, "-o", program]
        subprocess.run(line, check=True)
        counts.append(output_of(program, FLASHMLA_CPU_ISA="portable"))
        assert not re.search(r"GNU_STACK.*RWE", output_of("readelf", "-lW", program))
    assert counts[0] == counts[1]
    assert re.fullmatch(r"[1-9]\d* kernels, portable\n", counts[0])


def test_the_archive_shows_public_functions_alone(prefix):
    listed = output_of("nm", "--defined-only", "--extern-only", prefix / "lib" / "libflashmla.a").splitlines()
    found = {line.split()[-1] for line in listed if len(line.split()) == 3}
    assert found
    assert all(name.startswith("flashmla_") for name in found), found


@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")
@pytest.mark.parametrize("target", ["flashmla", "flashmla_static"])
def test_cmake_links(prefix, tmp_path, compiler, target):
    configured = configure(prefix, tmp_path, "", target, compiler)
    assert configured.returncode == 0, configured.stderr
    subprocess.run(["cmake", "--build", tmp_path / "build"], check=True, capture_output=True)
    check_example(tmp_path / "build" / "example", compiler)


@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")
def test_cmake_versions(prefix, tmp_path):
    major, minor, patch = map(int, build.version().split("."))
    assert major == 0, "from 1.0 on a minor version is met by later ones"
    fine = [f"{major}.{minor}", f"{major}.{minor}.{patch} EXACT"]
    for wanted in [*fine, f"{major}.{minor - 1}", f"{major}.{minor + 1}", f"{major + 1}.0"]:
        configured = configure(prefix, tmp_path, wanted, "flashmla", build.compiler())
        assert (configured.returncode == 0) == (wanted in fine), wanted + configured.stderr


def configure(prefix, folder, wanted, target, compiler):
    language = LANGUAGES.get(compiler, "C")
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\n"
        f"project(example {language})\nset(CMAKE_CXX_STANDARD 17)\n"
        f"find_package(flashmla {wanted} REQUIRED CONFIG)\n"
        f"add_executable(example {EXAMPLES[language]})\n"
        f"target_link_libraries(example PRIVATE flashmla::{target} m)\n"
    )
    shutil.rmtree(folder / "build", ignore_errors=True)
    places = [f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_{language}_COMPILER={compiler}"]
    return subprocess.run(
        ["cmake", "-S", folder, "-B", folder / "build", *places], capture_output=True, text=True, check=False
    )
