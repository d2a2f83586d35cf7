"""The public headers compile in C and C++, and tell of limits, variables and functions what the sources do."""

import re
import shutil
import subprocess

import pytest

import build
from dsl_kernels.merge_states.params import MAX_STATES

HEADERS = {path.name: path.read_text() for path in build.headers()}
COMMENT = HEADERS["flashmla.h"].split("*/")[0]
LIBRARY = build.PACKAGE / build.SONAME
STRICT = ["-Wall", "-Wextra", "-Wmissing-field-initializers", "-Wconversion", "-pedantic", "-Werror"]
LANGUAGES = [("c", "c99"), ("c", "c11"), ("c++", "c++11"), ("c++", "c++17")]
DRIVERS = {("gcc", "c"): "gcc", ("gcc", "c++"): "g++", ("clang", "c"): "clang", ("clang", "c++"): "clang++"}


@pytest.fixture(params=["gcc", "clang"])
def brand(request):
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


def source_of(name):
    return (build.SOURCE / name).read_text()


def compile_and_run(text, folder, brand, language, standard):
    """What the program prints. Strict compilers, and the library as users have it."""
    driver = DRIVERS[brand, language]
    if not shutil.which(driver):
        pytest.skip(f"{driver} is not installed")
    source, program = folder / "program.c", folder / "program"
    source.write_text(text)
    library = [LIBRARY, f"-Wl,-rpath,{LIBRARY.parent}"]
    line = [driver, "-x", language, f"-std={standard}", *STRICT, f"-I{build.INCLUDE}", source]
    subprocess.run([*line, "-x", "none", *library, "-o", program], check=True)
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout


def structs(text):
    """Those that have an initialiser."""
    return [name.lower() for name in re.findall(r"#define (FLASHMLA_\w+)_INIT\b", text)]


STRUCTS = structs(build.header_text())


@pytest.mark.parametrize("name", HEADERS)
def test_every_params_struct_has_an_initialiser(name):
    sized = re.findall(r"^typedef struct (\w+) \{\n  uint32_t struct_size;", HEADERS[name], re.MULTILINE)
    assert sorted(structs(HEADERS[name])) == sorted(sized)


@pytest.mark.parametrize(("language", "standard"), LANGUAGES)
def test_initialisers_set_the_size_alone_and_the_version_is_the_librarys(tmp_path, brand, language, standard):
    lines = ["#include <flashmla/flashmla.h>", "#include <stdio.h>", "#include <string.h>"]
    lines += ["#if FLASHMLA_VERSION < 200 || FLASHMLA_VERSION >= 1000000", "#error", "#endif"]
    for name in STRUCTS:
        lines += [f"static {name} static_{name} = {name.upper()}_INIT, zero_{name};"]
    lines += ["int main(void) {"]
    for name in STRUCTS:
        lines += [f"  {name} made_{name} = {name.upper()}_INIT;"]
        lines += [f"  zero_{name}.struct_size = (uint32_t)sizeof(zero_{name});"]
        lines += [f"  if (memcmp(&zero_{name}, &static_{name}, sizeof zero_{name}) != 0) return 1;"]
        lines += [f"  if (made_{name}.struct_size != zero_{name}.struct_size) return 2;"]
    lines += ['  printf("%d %d\\n", FLASHMLA_VERSION == flashmla_version(), FLASHMLA_VERSION);', "  return 0;", "}", ""]
    printed = compile_and_run("\n".join(lines), tmp_path, brand, language, standard)
    major, minor, patch = map(int, build.version().split("."))
    assert printed == f"1 {10000 * major + 100 * minor + patch}\n"


def example():
    part = COMMENT[COMMENT.index(" * Example:") : COMMENT.index(" * How a call works")]
    return "\n".join(line[len(" *   ") :] for line in part.splitlines()[1:]) + "\n"


USE_OF_EXAMPLE = """
#include <stdio.h>
static float q[16 * 576], kv[2 * 64 * 576], out[16 * 512];
static int32_t table[] = {1}, lengths[] = {40};
int main(void) {
  int64_t q_shape[] = {1, 1, 16, 576}, kv_shape[] = {2, 64, 1, 576}, out_shape[] = {1, 1, 16, 512}, ones[] = {1, 1};
  const DLDevice cpu = {kDLCPU, 0};
  const DLDataType fp32 = {kDLFloat, 32, 1}, int32 = {kDLInt, 32, 1};
  const DLTensor tensors[] = {{q, cpu, 4, fp32, q_shape, NULL, 0},     {kv, cpu, 4, fp32, kv_shape, NULL, 0},
                              {table, cpu, 2, int32, ones, NULL, 0},   {lengths, cpu, 1, int32, ones, NULL, 0},
                              {out, cpu, 4, fp32, out_shape, NULL, 0}, {out, cpu, 3, fp32, out_shape, NULL, 0}};
  for (int i = 0; i < 2 * 64 * 576; i++) kv[i] = i < 64 * 576 ? 7.0f : 3.0f;
  if (decode_step(&tensors[0], &tensors[1], &tensors[2], &tensors[3], &tensors[4]) != FLASHMLA_OK) return 1;
  if (decode_step(&tensors[0], &tensors[1], &tensors[2], &tensors[3], &tensors[5]) != FLASHMLA_ERROR_SHAPE) return 2;
  printf("%g %g, %s\\n", (double)out[0], (double)out[16 * 512 - 1], flashmla_last_error());
  return 0;
}
"""


@pytest.mark.parametrize(("language", "standard"), [("c", "c99"), ("c++", "c++11")])
def test_the_example_compiles_and_runs(tmp_path, brand, language, standard):
    printed = compile_and_run(example() + USE_OF_EXAMPLE, tmp_path, brand, language, standard)
    assert printed == "3 3, out.ndim is 3; it must be 4 (batch, s_q, h_q, d_v), or 3 with cu_seqlens_q\n"


def test_the_contents_are_the_sections():
    contents = COMMENT[COMMENT.index(" * Contents\n") : COMMENT.index(" * Example:")].splitlines()
    of_comment = re.search(r"in this comment: (.*?)\n \*   in the headers", "\n".join(contents), re.DOTALL)[1]
    titles = [title.lower().replace("\n *   ", " ") for title in re.split(r"; ", of_comment.replace("\n *   ", " "))]
    heads = re.findall(r"^ \* ([A-Z][^-:\n]*?)(?::.*)?$", COMMENT[COMMENT.index(" * Example:") :], re.MULTILINE)
    assert [title.removeprefix("an ") for title in titles] == [head.lower() for head in heads]
    parts = re.findall(r"^ \*   (\w+\.h) +(.*(?:\n \* {10,}.*)*)", "\n".join(contents), re.MULTILINE)
    listed = {name: re.sub(r"\n \* +", " ", sections).split("; ") for name, sections in parts}
    found = {name: re.findall(r"^/\* ---- (.*) ---- \*/$", text, re.MULTILINE) for name, text in HEADERS.items()}
    assert found.pop("flashmla.h") == []
    assert list(listed.items()) == [
        (name, [f"{section[0].lower()}{section[1:]}" for section in sections]) for name, sections in found.items()
    ]


def test_every_header_is_included():
    assert {path.name for path in build.HEADER.parent.glob("*.h")} == {*HEADERS, "dlpack.h"}


def functions(text):
    return [line for line in text.splitlines() if line.startswith("FLASHMLA_API ")]


@pytest.mark.parametrize("name", [name for name, text in HEADERS.items() if functions(text)])
def test_each_function_has_a_paragraph_that_says_what_it_returns(name):
    text = HEADERS[name]
    for line in functions(text):
        before = text[: text.index(line)]
        assert before.endswith("*/\n"), line
        assert line.startswith("FLASHMLA_API void flashmla_") or re.search("Returns", before.rpartition("/*")[2]), line


def test_environment_variables_and_their_values_are_those_of_the_sources():
    texts = [path.read_text() for path in build.SOURCE.rglob("*.c")]
    found = re.compile(r'(?:static const fm_variable \w+ = \{|define \w+ )"(FLASHMLA_\w+)"')
    variables = {name for text in texts if "FM_VARIABLE(" in text for name in found.findall(text)}
    section = COMMENT[COMMENT.index(" * Environment variables") :]
    assert set(re.findall(r"^ \*   - (FLASHMLA_\w+):", section, re.MULTILINE)) == variables


def number(name, pattern):
    return int(re.search(pattern, source_of(name))[1])


def test_limits_are_those_of_the_sources():
    limits = COMMENT[COMMENT.index(" * Limits") : COMMENT.index(" * Environment variables")]
    limits = re.sub(r"\n \* +", " ", limits)
    splits = number("schedule/schedule.h", r"FM_MAX_SPLITS = (\d+)")
    size = number("core/params.c", r"MAX_STRUCT_SIZE = (\d+)")
    devices = number("cuda/device.h", r"FM_MAX_DEVICES = (\d+)")
    sentence = number("core/error.c", r"FM_SENTENCE_BYTES = (\d+)")
    assert f"num_splits is at most {splits}, struct_size at most {size} bytes" in limits
    assert f"a CUDA device's number below {devices}" in limits
    assert f"cut off at {sentence - 1} bytes" in limits
    measured = re.search(r"MOST_BYTES = (\d+) << 10", (build.ROOT / "tests" / "c" / "stack.h").read_text())[1]
    assert f"less than {measured} KB of the calling thread's" in limits
    own = re.search(r"own\[\] = \{(.*?)\};", source_of("cpu/workers.c"))[1].split(", ")
    assert set(re.findall(r"\bSIG[A-Z]+\b", limits)) == set(own)
    assert number("cpu/workers.c", r"IDLE_SECONDS = (\d+)") == 1
    assert "kept for a second" in limits
    layers, sequence_bits = (
        number("pool/check.c", r"MOST_LAYERS = (\d+)"),
        number("pool/check.c", r"\(1 << (\d+)\) - 1"),
    )
    assert sequence_bits == number("pool/sequences.c", r"RECORD_BITS = (\d+)")
    assert f"A pool has at most {layers} layers and {2**sequence_bits - 1} sequences" in limits
    listed = number("ops/merge_states/merge_states.h", r"FM_MAX_CPU_STATES = (\d+)")
    assert f"At\n   * most {listed} separate tensors, on CUDA {MAX_STATES} unless" in HEADERS["attention.h"]


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_may_come_alone_and_before_the_others(name, brand, tmp_path):
    lines = [f"#include <flashmla/{name}>", f"#include <flashmla/{name}>"]
    lines += [f"static {struct} a_{struct} = {struct.upper()}_INIT;" for struct in structs(HEADERS[name])]
    lines += ["static flashmla_status status = FLASHMLA_OK;"]
    lines += [f"#include <flashmla/{other}>" for other in reversed(HEADERS)]
    lines += ["int main(void) {", "  if (sizeof(flashmla_plan) == 0 || FLASHMLA_EXCHANGE_UNUSUAL == 0) return 1;"]
    lines += [f"  if (a_{struct}.struct_size == 0) return 1;" for struct in structs(HEADERS[name])]
    lines += ["  return status != FLASHMLA_OK;", "}", ""]
    for language, standard in LANGUAGES:
        compile_and_run("\n".join(lines), tmp_path, brand, language, standard)
