"""What the documents say is what the tree does: snippets run, tables match their sources, links lead somewhere."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import build
from ops.dense_decode import oracle

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
USAGE = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in ("usage", "caches", "c", "errors"))
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
PYTHON_CLASSES = {
    "1": "`InvalidArgumentError`",
    "2": "`UnsupportedError`",
    "3": "`DeviceError`",
    "4": "`PoolFullError`",
}


def snippet(language: str) -> str:
    """The first block of a language in the README."""
    found = re.search(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_python_snippet_runs():
    import flashmla

    names: dict = {}
    exec(compile(snippet("python"), "README.md", "exec"), names)
    assert names["out"].shape == (2, 1, 16, 512)
    assert names["lse"].shape == (2, 16, 1)
    assert names["flashmla"] is flashmla


def test_the_c_snippet_builds_with_the_commands_below_it_and_runs(tmp_path):
    """For another prefix, as C99, with a compiler that takes warnings for errors; what it prints is right."""
    source, program, prefix = tmp_path / "decode.c", tmp_path / "decode", tmp_path / "flashmla"
    source.write_text(snippet("c"))
    [block] = [
        block for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL) if "install" in block
    ]
    install, compile_it = block.replace("~/flashmla", str(prefix)).splitlines()
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not installed")
    install = install.replace("python3 ", f"{sys.executable} ")
    compile_it = compile_it.replace("gcc ", f"{os.environ.get('CC', 'gcc')} -Wall -Wextra -pedantic -Werror ")
    subprocess.run(install, shell=True, check=True, cwd=ROOT, capture_output=True)
    subprocess.run(compile_it, shell=True, check=True, cwd=tmp_path)
    assert "-std=c99 " in compile_it
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert f"/* {printed.strip()} */" in snippet("c")
    q = (np.arange(16 * 576) % 13 / 13).reshape(1, 1, 16, 576)
    kv_cache = (np.arange(8 * 64 * 576) % 7 / 7).reshape(8, 64, 1, 576)
    out, _ = oracle.dense_decode(q, kv_cache, np.array([[5, 2, 7]], np.int32), np.array([150], np.int32))
    found = [float(number) for number in printed.split()[:3]]
    np.testing.assert_allclose(found, out[0, 0, 0, :3], atol=6e-5)  # four digits


def snippets_of_usage(language):
    return re.findall(rf"^```{language}\n(.*?)^```", USAGE, re.MULTILINE | re.DOTALL)


def only_snippet(text):
    (found,) = [snippet for snippet in snippets_of_usage("python") if text in snippet]
    return compile(found, "usage.md", "exec")


def test_the_custom_operation_of_the_usage_page_is_traced():
    torch = pytest.importorskip("torch")
    import flashmla
    import small

    names = {"torch": torch, "flashmla": flashmla}
    exec(only_snippet("torch.library.custom_op("), names)

    class Decode(torch.nn.Module):
        def forward(self, q, *rest):
            out, lse = names["decode"](q * 1, *rest)
            return out * 2, lse

    inputs = tuple(torch.from_numpy(array) for array in small.inputs())
    out, lse = flashmla.dense_decode(*inputs, causal=True)
    from torch.fx.experimental.proxy_tensor import make_fx

    for traced in (
        torch.compile(Decode(), backend="aot_eager", fullgraph=True),
        torch.export.export(Decode(), inputs).module(),
        make_fx(Decode(), tracing_mode="real")(*inputs),
    ):
        found = traced(*inputs)
        assert bool((found[0] == out * 2).all() and (found[1] == lse).all())


def test_the_callback_of_the_usage_page_runs_in_jit():
    jax = pytest.importorskip("jax")
    import flashmla
    import small

    names = {"np": np, "flashmla": flashmla}
    exec(only_snippet("jax.pure_callback("), names)
    for dtype in small.DTYPES:
        arrays = small.inputs(dtype)
        found = jax.jit(lambda q, *rest: names["decode"](q * 1, *rest))(*map(jax.numpy.asarray, arrays))
        for one, other in zip(found, flashmla.dense_decode(*arrays, causal=True), strict=True):
            np.testing.assert_array_equal(np.asarray(one), other)


def test_the_pool_of_the_usage_page_runs_on_the_cpu():
    """With rows in another order than that of the sequences that run."""
    torch = pytest.importorskip("torch")
    import flashmla

    (text,) = [snippet for snippet in snippets_of_usage("python") if "PagedKVCache(layers" in snippet]
    first, last = text.replace('"cuda"', '"cpu"').split("cache.append(running)")
    names = {"torch": torch, "flashmla": flashmla, "num_blocks": 9, "num_layers": 2}
    names |= {"prompt": list(range(100)), "latent": torch.randn(100, 512).bfloat16()}
    names["rope"] = torch.randn(100, 64).bfloat16()
    exec(compile(first, "usage.md", "exec"), names)
    cache, layer, seq = names["cache"], names["layer"], names["seq"]
    names |= {"running": [cache.fork(seq), seq], "q": torch.randn(2, 1, 16, 576).bfloat16()}
    cache.append(names["running"][:1], [3])
    layer.normal_()
    exec(compile(f"cache.append(running){last}", "usage.md", "exec"), names)
    rows = [cache.row(sequence) for sequence in names["running"]]
    assert rows == [1, 0]
    assert cache.cache_seqlens[rows].tolist() == [104, 101]
    for i, row in enumerate(rows):
        alone = cache.block_table[row : row + 1], cache.cache_seqlens[row : row + 1]
        expected, _ = flashmla.dense_decode(names["q"][i : i + 1], layer, *alone)
        torch.testing.assert_close(names["out"][i : i + 1], expected, atol=2e-2, rtol=2e-2)


@pytest.fixture
def names_of_the_usage_page(monkeypatch):
    """What the page's snippets take for granted; the module that one of them registers is forgotten afterwards."""
    for name in ("flash_mla", "flash_mla.flash_mla_interface"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    names: dict = {"layers": 2}
    exec(compile(snippet("python"), "README.md", "exec"), names)
    return names | {"qs": [names["q"]] * 2, "kv_caches": [names["kv_cache"]] * 2}


def test_the_python_snippets_of_the_usage_page_run(names_of_the_usage_page):
    names = names_of_the_usage_page
    on_numpy = [text for text in snippets_of_usage("python") if "torch" not in text and "jax" not in text]
    assert len(on_numpy) == 14
    for text in on_numpy:
        exec(compile(text, "usage.md", "exec"), names)
        if "packed_out" in text:
            assert names["packed_out"].shape == (3, 16, 512)
        if "cp_world" in text:
            whole, _ = names["flashmla"].dense_decode(
                *(names[name] for name in ("q", "kv_cache", "block_table", "cache_seqlens")), causal=True
            )
            np.testing.assert_allclose(names["out"], whole, atol=1e-5)
    assert names["flash_mla_with_kvcache"] is names["flashmla"].compat.flash_mla.flash_mla_with_kvcache


def test_the_c_snippet_of_the_usage_page_compiles():
    (text,) = snippets_of_usage("c")
    given = "const DLTensor q, kv, table, lengths; int layers; flashmla_dense_decode_params call[2];"
    program = f"#include <flashmla/flashmla.h>\n{given}\nvoid step_of(void) {{\n{text}}}\n"
    compiler = [os.environ.get("CC", "gcc"), "-Wno-unused-result", "-fsyntax-only", f"-I{build.INCLUDE}"]
    subprocess.run([*compiler, "-x", "c", "-"], input=program, text=True, check=True)


EXAMPLES = {
    "quickstart_numpy": "numpy",
    "attention_numpy": "numpy",
    "quickstart_torch": "torch",
    "quickstart_jax": "jax",
    "sparse": "torch",
}


@pytest.mark.parametrize(("name", "framework"), EXAMPLES.items())
def test_examples_run_on_the_cpu(name, framework):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    script = ROOT / "examples" / "python" / f"{name}.py"
    subprocess.run([sys.executable, script], check=True, capture_output=True, env=environment)


@pytest.mark.parametrize("operation", ["dense_decode", "sparse_decode"])
def test_the_support_matrix_is_that_of_the_kernel_tables(operation):
    import flashmla
    from dsl_kernels.variants import FAMILIES

    short = {"bfloat16": "bf16", "float16": "fp16", "float32": "float32"}
    on_gpu = {short[variant.elements.q] for variant in FAMILIES[operation].variants}
    on_cpu = {
        short[kernel["dtype"]]
        for kernel in flashmla.info()["kernels"]
        if (kernel["target"], kernel["operation"]) == ("cpu", operation)
    }
    row = next(line for line in README.splitlines() if line.startswith(f"| `{operation}`"))
    gpu_cell, cpu_cell = row.split("|")[2:4]
    assert set(re.findall(r"bf16|fp16|float32", gpu_cell)) == on_gpu
    assert set(re.findall(r"bf16|fp16|float32", cpu_cell)) == on_cpu


def test_the_error_table_is_that_of_the_header():
    enumerator = re.compile(r"^  (FLASHMLA_(?:OK|ERROR_\w+)) = (\d+),?(?: +/\* (.*) \*/)?$", re.MULTILINE)
    enumerators = enumerator.findall(build.header_text())
    assert len(enumerators) > 15
    expected = [
        f"| {number} | `{name}` | {meaning or 'success'} | {PYTHON_CLASSES.get(number[0], '')} |"
        for name, number, meaning in enumerators
    ]
    assert [line for line in USAGE.splitlines() if re.match(r"\| \d+ \|", line)] == expected


def test_the_attributes_of_errors_are_those_that_the_usage_page_names():
    from flashmla.errors import error_for

    error = error_for(111, "a sentence")
    names = re.search(r"has `\.(\w+)` \(the number\) and `\.(\w+)`", USAGE)
    assert [getattr(error, name) for name in names.groups()] == [111, "FLASHMLA_ERROR_SHAPE"]


@pytest.fixture
def readme_section():
    spec = importlib.util.spec_from_file_location("readme_section", ROOT / "benchmarks" / "readme_section.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_performance_section_is_that_of_the_records(readme_section):
    written = readme_section.parts(README)[1]
    plain = readme_section.provenance.without_verdict
    assert plain(written) == plain(readme_section.current()), "run python benchmarks/readme_section.py"


def test_the_performance_section_shows_the_last_record_of_a_case(readme_section, tmp_path):
    gpu = {"gpu": "GPU", "driver": "580", "op": "dense_decode", "case": [128, 1, 64, 4096], "us_cold": 250.0}
    gpu |= {"limit_us": 100.0, "peers": {"other": 210.0}, "rel_err": 2e-3}
    cpu = {"cpu": "CPU", "threads": 2, "isa": "avx2", "op": "dense_decode", "dtype": "float16", "case": [1, 1, 1, 64]}
    cpu |= {"us": 30.0, "peers": {}, "rel_err": 1e-4}
    rated = cpu | {"isa": "amx", "gflops": 3.0, "product_gflops": 4.0, "gbs": 2.0, "read_gbs": 8.0}
    records = [gpu | {"us": 300.0}, gpu | {"us": 200.0}, cpu, rated, {"gpu": "GPU", "tests": "passed"}]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    made = readme_section.section(readme_section.read_records(tmp_path))
    assert "| `dense_decode` | 128, 1, 64, 4096 | 200.0 | 210.0 | 100.0 | 0.50 | 250.0 | 2.0e-03 |" in made
    assert "CPU, 2 threads, avx2. Made with CPU sources not recorded." in made
    assert "| `dense_decode` float16 | 1, 1, 1, 64 | 30.0 | 1.0e-04 |" in made
    assert "| `dense_decode` float16 | 1, 1, 1, 64 | 30.0 | 0.75 | 0.25 | 1.0e-04 |" in made
    assert "300.0" not in made


def test_every_environment_variable_is_listed():
    in_c = re.compile(r'(?:static const fm_variable \w+ = \{|define \w+ )"(FLASHMLA_\w+)"')
    in_python = re.compile(r'environ(?:\.get)?[\[(]\s*"(FLASHMLA_\w+)"')
    texts = [path.read_text() for path in (ROOT / "libflashmla" / "src").rglob("*.c")]
    found = {name for text in texts if "FM_VARIABLE(" in text for name in in_c.findall(text)}
    found |= {name for path in (ROOT / "bindings").rglob("*.py") for name in in_python.findall(path.read_text())}
    assert found == set(re.findall(r"^\| `(FLASHMLA_\w+)` \|", README, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_exist(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        assert (document.parent / name).exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", (document.parent / (name or document.name)).read_text(), re.MULTILINE)
            assert heading in [h.lower().replace(" ", "-") for h in headings], target
    # Paths in backquotes are meant from the root of the tree; generated and ignored ones are left out.
    folders = "aot|benchmarks|bindings|docs|dsl_kernels|examples|libflashmla|tests"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        if "generated" not in path:
            assert (ROOT / path).exists(), path
