"""flashmla.hpp and its example: compiled strictly and run, with exceptions and without, under sanitizers."""

import functools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import build

HERE = Path(__file__).parent
HEADER = build.HEADER.with_suffix(".hpp")
HEADERS = sorted(HEADER.parent.glob("*.hpp"))
EXAMPLE = build.ROOT / "examples" / "cpp" / "server.cpp"
LIBRARY = [build.PACKAGE / build.SONAME, f"-Wl,-rpath,{build.PACKAGE}"]
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wmissing-field-initializers", "-pedantic"]
STRICT += ["-Werror", f"-I{build.INCLUDE}"]
FORMS = {"throwing": [], "returning": ["-fno-exceptions", "-fno-rtti"], "as asked": ["-DFLASHMLA_EXCEPTIONS=0"]}
SANITIZERS = {"plain": [], "sanitized": ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]}
DLPACK = sorted((build.ROOT / "tests" / "abi").glob("dlpack/*/*/dlpack.h"))
ENTRY = "int main() { return 0; }\n"
SNIPPET = f"#include <flashmla/flashmla.hpp>\n{ENTRY}"


@pytest.fixture(params=["g++", "clang++"])
def compiler(request):
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@functools.cache
def links(compiler, *flags):
    """Whether a compiler has the libraries of its sanitizers."""
    line = [compiler, *flags, "-x", "c++", "-", "-o", "/dev/null"]
    return subprocess.run(line, input=ENTRY, text=True, capture_output=True, check=False).returncode == 0


def compiled(compiler, sources, folder, *flags, include=build.INCLUDE):
    made = folder / "program"
    subprocess.run([compiler, f"-I{include}", *STRICT, *flags, *sources, *LIBRARY, "-o", made], check=True)
    return made


def run(program):
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def takes(compiler, text, *flags):
    line = [compiler, *STRICT, *flags, "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(line, input=text, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("form", FORMS)
def test_the_header_compiles_alone(compiler, form):
    ran = takes(compiler, SNIPPET, *FORMS[form])
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("dlpack", DLPACK, ids=lambda path: path.parts[-3])
def test_the_header_compiles_behind_dlpack(compiler, dlpack):
    ran = takes(compiler, f"#include <{dlpack}>\n{SNIPPET}")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["test_pools", "test_calls"])
def test_program(compiler, name, form, sanitizer, tmp_path):
    flags = [*FORMS[form], *SANITIZERS[sanitizer]]
    if not links(compiler, *flags):
        pytest.skip(f"{compiler} has no sanitizers")
    sources = [HERE / f"{name}.cpp", *([HERE / "other_form.cpp"] if name == "test_calls" else [])]
    run(compiled(compiler, sources, tmp_path, *flags))


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        pytest.param("test_pools", "if (name_ != 0) static_cast", "if (false) static_cast", id="not freed"),
        pytest.param("test_pools", "name_(std::exchange(other.name_, 0)) {}", "name_(other.name_) {}", id="two owners"),
        pytest.param("test_pools", "if (done) release();", "", id="freed and still named"),
        pytest.param(
            "test_pools", "if (done) child = sequence(pool_, made);", "child = sequence(pool_, made);", id="failed fork"
        ),
        pytest.param("test_calls", "view_.shape = shape_;", "(void)shape_;", id="shape of another tensor"),
        pytest.param("test_calls", "view_.strides = strides_;\n    return", "return", id="strides of another tensor"),
        pytest.param(
            "test_calls",
            "if (done) plan_ = made, memory_ = std::move(memory);",
            "if (done) plan_ = made;",
            id="plan without memory",
        ),
        pytest.param("test_calls", "if (done) plan_ = made, memory_", "plan_ = made, memory_", id="failed plan"),
        pytest.param("test_calls", "flashmla_prepared_free(call);", "(void)call;", id="prepared and never freed"),
        pytest.param(
            "test_calls",
            "#if FLASHMLA_EXCEPTIONS\n#define FLASHMLA_FORM throwing",
            "#if FLASHMLA_EXCEPTIONS + 1\n#define FLASHMLA_FORM throwing",
            id="forms in one namespace",
        ),
    ],
)
def test_the_programs_notice(name, right, wrong, tmp_path):
    """With a fault in a copy of the header, in the form in which a failure does not leave the function."""
    sanitized = [*SANITIZERS["sanitized"], "-O0", "-Wno-error", "-w"]
    if not shutil.which("g++") or not links("g++", *sanitized):
        pytest.skip("g++ and its sanitizers are not installed")
    folder = shutil.copytree(build.INCLUDE, tmp_path / "include")
    (header,) = [path for path in HEADERS if right in path.read_text()]
    (folder / "flashmla" / header.name).write_text(header.read_text().replace(right, wrong))
    other = tmp_path / "other_form.o"
    line = ["g++", f"-I{folder}", *STRICT, *sanitized, "-c", HERE / "other_form.cpp", "-o", other]
    subprocess.run(line, check=True)
    sources = [HERE / f"{name}.cpp", *([other] if name == "test_calls" else [])]
    program = compiled("g++", sources, tmp_path, *sanitized, *FORMS["returning"], include=folder)
    assert subprocess.run([program], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(("first", "second"), [("throwing", "returning"), ("returning", "throwing")])
def test_both_forms_in_one_program(compiler, first, second, tmp_path):
    other = tmp_path / "other_form.o"
    # Not optimised, so that inline functions of the two files could take each other's place.
    subprocess.run([compiler, *STRICT, "-O0", *FORMS[second], "-c", HERE / "other_form.cpp", "-o", other], check=True)
    run(compiled(compiler, [HERE / "test_calls.cpp", other], tmp_path, "-O0", *FORMS[first]))


@pytest.mark.parametrize(
    ("statement", "returning", "throwing"),
    [
        ("flashmla::append_kv(params);", False, True),
        ("pool.update();", False, True),
        ("static_cast<void>(pool.update().ok());", True, True),
        ("flashmla::attempt([&] { return pool.update(); });", False, True),
        ("params.latent = flashmla::tensor(data, {1, 8});", False, False),
        ("flashmla::tensor made(half, {1, 8}); params.latent = made;", False, False),
        ("flashmla::tensor made(half, flashmla::float16, {1, 8}); params.latent = made;", True, True),
    ],
)
def test_what_compilers_refuse(compiler, statement, returning, throwing):
    """A status that nobody looks at, a tensor that is gone by the call, an element type that could be several."""
    given = "flashmla_append_kv_params &params, flashmla::pool &pool, float *data, uint16_t *half"
    lines = ["#include <flashmla/flashmla.hpp>", f"void test({given});", f"void test({given}) {{"]
    text = "\n".join([*lines, "(void)params, (void)pool, (void)data, (void)half;", statement, "}", ""])
    for form, fine in [("returning", returning), ("throwing", throwing)]:
        assert (takes(compiler, text, *FORMS[form]).returncode == 0) == fine, form


def test_every_pool_function_and_operation_has_its_wrapper():
    headers, wrapped = build.header_text(), "".join(path.read_text() for path in HEADERS)
    functions = set(re.findall(r"\b(flashmla_pool_\w+)\(", headers))
    called = set(re.findall(r"\b(flashmla_pool_\w+)\b", wrapped))
    # What params are filled with before there is a pool.
    assert functions - called == {"flashmla_pool_block_bytes", "flashmla_pool_staging_size"}
    operations = set(re.findall(r"\bflashmla_(\w+)_prepare\(", headers)) - {"plan_decode", "plan_sparse_decode"}
    assert operations == set(re.findall(r"^FLASHMLA_OPERATION\((\w+)\)$", wrapped, re.MULTILINE))
    sized = set(re.findall(r"\bflashmla_(\w+_size)\(", headers)) - {"pool_staging_size"}
    assert {f"flashmla_{name}" for name in sized} <= set(re.findall(r"\bflashmla_\w+", wrapped))


USE_OF_EXAMPLE = """
#include <cstdio>
#include <vector>
int main() {
  const std::vector<float> q(2 * 16 * 576), cache(8 * 64 * 576, 3.0f);
  std::vector<float> out(2 * 16 * 512);
  const int32_t table[] = {5, 2, 7, 1, 0, 3}, lengths[] = {150, 1};
  decode_step(q.data(), cache.data(), table, lengths, out.data());
  std::printf("%g %g\\n", out.front(), out.back());
  try {
    decode_step(nullptr, cache.data(), table, lengths, out.data());
  } catch (const flashmla::error &failure) {
    std::printf("%s\\n", failure.what());
  }
}
"""


def test_the_example_of_the_header_runs(compiler, tmp_path):
    comment = HEADER.read_text().split("*/")[0]
    part = comment[comment.index(" * Example:") : comment.index(" * Failures:")]
    source = tmp_path / "example.cpp"
    text = "\n".join(line[len(" *   ") :] for line in part.splitlines()[1:])
    source.write_text(text.replace("void decode_step", "static void decode_step") + USE_OF_EXAMPLE)
    first, second = run(compiled(compiler, [source], tmp_path)).splitlines()
    assert first == "3 3"
    assert second.startswith("q.data is NULL"), second


def test_the_snippet_of_the_page_on_c_compiles(compiler):
    page = (build.ROOT / "docs" / "c.md").read_text()
    (text,) = re.findall(r"^```cpp\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    include, statements = text.split("\n", 1)
    given = """const flashmla_pool_params &params, const std::vector<int64_t> &prompt, flashmla::sequence &youngest,
        const flashmla::tensor &cache, const flashmla::tensor &latent, const flashmla::tensor &slot_mapping,
        const std::vector<flashmla_sequence> &names, int32_t prompt_tokens"""
    ran = takes(compiler, f"{include}\n#include <vector>\nvoid page({given});\nvoid page({given}) {{\n{statements}}}\n")
    assert ran.returncode == 0, ran.stderr


def stated_lines():
    comment = EXAMPLE.read_text().split("*/")[0].replace("\\\n *", "")
    return re.findall(r"^ \*  (\S.*)$", comment, re.MULTILINE)


def test_the_server_builds_with_the_line_it_states():
    lines = stated_lines()
    assert lines[0].startswith("g++ -std=c++17 examples/cpp/server.cpp ")
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    output = ""
    for line in lines:
        output = subprocess.run(shlex.split(line), cwd=build.ROOT, check=True, capture_output=True, text=True).stdout
    head, *rows, books = output.splitlines()
    assert head.split() == ["request", "prompt", "shared", "generated", "swaps", "difference"]
    assert len(rows) == 7
    assert sum("fork of" in row for row in rows) == 1
    assert re.fullmatch(r"\d+ steps; of 20 blocks \d+ are free, \d+ cached, 0 used", books)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_server_is_clean(compiler, sanitizer, tmp_path):
    if not links(compiler, *SANITIZERS[sanitizer]):
        pytest.skip(f"{compiler} has no sanitizers")
    run(compiled(compiler, [EXAMPLE], tmp_path, *SANITIZERS[sanitizer]))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("    pool_.update();\n", "", id="arrays not brought up to date"),
        pytest.param("flashmla::append_kv(write);", "if (n > 1) flashmla::append_kv(write);", id="a row not written"),
        pytest.param("caches_[layer], write.latent", "caches_[0], write.latent", id="rows in another layer's cache"),
        pytest.param("FLASHMLA_CAUSAL | ", "", id="not causal"),
        pytest.param("if (each.now != state::swapped) continue;", "continue;", id="swapped and never back"),
        pytest.param("of.sequence.commit(of.tokens.data(), of.length);", "", id="nothing shared"),
        pytest.param("of.generated() == of.fork_at", "false", id="no fork"),
        pytest.param("of.sequence.free();", "of.sequence.release();", id="a sequence left behind"),
        pytest.param("BLOCKS = 20", "BLOCKS = 64", id="a pool that is large enough"),
    ],
)
def test_the_server_notices(right, wrong, tmp_path):
    """Its exit status tells of a fault."""
    compiler = next(filter(shutil.which, ("g++", "clang++")), None)
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    text = EXAMPLE.read_text()
    assert text.count(right) == 1
    source = tmp_path / "server.cpp"
    source.write_text(text.replace(right, wrong))
    program = compiled(compiler, [source], tmp_path, "-Wno-unused", f"-I{EXAMPLE.parent}")
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stdout
