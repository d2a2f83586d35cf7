"""The one-way flow dsl_kernels -> aot -> libflashmla -> bindings, read from the sources: who may import what."""

import ast
import re
import sys
from pathlib import Path

import pytest

import operations

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = {"cupy", "jax", "jaxlib", "ml_dtypes", "torch"}
OURS = {"aot", "benchmarks", "build", "buildtools", "dsl_kernels", "flashmla", "tests"}


def imports(path):
    """Roots of all modules that a file imports, anywhere in it."""
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            roots.add("." * node.level if node.level else (node.module or "").partition(".")[0])
    return roots


def sources(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


INTEGRATIONS = sources("bindings/python/flashmla/integrations")
BINDINGS = [path for path in sources("bindings/python/flashmla") if path not in INTEGRATIONS]
DSL = sources("dsl_kernels")
AOT = sources("aot")
C_ROOT = ROOT / "libflashmla"
C = sorted(path for path in C_ROOT.rglob("*.[ch]") if "generated" not in path.parts)


@pytest.mark.parametrize("path", BINDINGS, ids=names(BINDINGS))
def test_bindings_import_no_framework_and_no_build_step(path):
    allowed = set(sys.stdlib_module_names) | {"flashmla", "_cffi_backend"}
    assert imports(path) <= allowed, "a user's framework is found through sys.modules, never imported"


@pytest.mark.parametrize("path", INTEGRATIONS, ids=names(INTEGRATIONS))
def test_an_integration_imports_its_framework_alone(path):
    allowed = set(sys.stdlib_module_names) | {"flashmla", "torch"} | ({path.stem} & {"transformers"})
    assert imports(path) <= allowed


@pytest.mark.parametrize("path", BINDINGS, ids=names(BINDINGS))
def test_the_package_itself_does_not_know_its_integrations(path):
    assert "flashmla.integrations" not in path.read_text()


TABLES = [
    *(path for path in DSL if path.name in {"barrier_table.py", "config.py", "params.py"}),
    *(ROOT / "dsl_kernels" / name for name in ("variants.py", "core/variant.py", "core/targets.py")),
    *(ROOT / "dsl_kernels" / "core" / name for name in ("schedule_params.py", "formats.py", "finding_params.py")),
]


@pytest.mark.parametrize("path", TABLES, ids=names(TABLES))
def test_the_variant_table_needs_the_standard_library_only(path):
    assert imports(path) <= set(sys.stdlib_module_names) | {"dsl_kernels", "."}
    modules = {part for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
               for part in [(node.module or "").rpartition(".")[2]]}  # fmt: skip
    ours = {other.stem for other in DSL} - {other.stem for other in TABLES}
    assert not modules & ours, "a module that imports the DSL"


# Whose roles an operation's kernels play, but for where their keys come from; whose parameters they look at.
BUILT_ON = {"sparse_decode": {"dense_decode"}, "check_sparse_decode": {"sparse_decode"}}


def test_an_operation_imports_core_and_itself():
    folders = {path.parent.name for path in DSL if path.name == "config.py"}
    for path in DSL:
        imported = [n.module or "" for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        own = path.parent.name
        others = folders - {own} - BUILT_ON.get(own, set()) if own in folders else folders
        assert not {name.split(".")[1] for name in imported if name.startswith("dsl_kernels.")} & others, path


@pytest.mark.parametrize("path", DSL, ids=names(DSL))
def test_kernels_know_nothing_of_what_is_built_from_them(path):
    assert not imports(path) & (FRAMEWORKS | OURS - {"dsl_kernels"})


@pytest.mark.parametrize("path", AOT, ids=names(AOT))
def test_aot_imports_kernels_and_no_framework(path):
    assert not imports(path) & (FRAMEWORKS | OURS - {"aot", "dsl_kernels"})


@pytest.mark.parametrize("path", C, ids=names(C))
def test_c_sources_include_no_toolkit_and_no_python(path):
    included = re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)', path.read_text(), re.MULTILINE)
    foreign = re.compile(r"^(cuda|cupti|nvrtc|nvToolsExt|cutlass|cute|Python|numpy)")
    own = {str(header.relative_to(C_ROOT / "src")) for header in C if header.is_relative_to(C_ROOT / "src")}
    assert not [name for name in included if foreign.match(name) and name not in own]


@pytest.mark.parametrize("operation", operations.having("oracle"))
def test_an_oracle_needs_numpy_only(operation):
    assert imports(operations.FOLDER / operation / "oracle.py") - set(sys.stdlib_module_names) == {"numpy"}


def test_build_starts_with_the_standard_library():
    imported = set().union(*(imports(path) for path in [ROOT / "build.py", *(ROOT / "buildtools").glob("*.py")]))
    allowed = {"buildtools", "hatchling"}
    assert imported - set(sys.stdlib_module_names) == allowed, "hatchling is there when hatchling asks"


@pytest.mark.parametrize("path", C, ids=names(C))
def test_sentences_choose_between_names_not_between_values(path):
    """In "{C|Python}" of a sentence: what is not chosen would leave its value to the next directive."""
    choices = re.findall(r"\{[^{}|\n]*\|[^{}|\n]*\}", path.read_text())
    assert not [choice for choice in choices if "%" in choice]
