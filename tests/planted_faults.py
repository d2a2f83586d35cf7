"""Faults that tests plant in copies of the sources, so that the sources themselves need no hooks for them."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import build


@dataclass(frozen=True)
class Edit:
    """A text that stands in a source file exactly once, and what stands there in the copy."""

    file: str  # in the tree
    before: str
    after: str

    def applied(self, text: str) -> str:
        found = text.count(self.before)
        assert found == 1, f"{self.file}: stands there {found} times, not once:\n{self.before}"
        return text.replace(self.before, self.after)


@dataclass(frozen=True)
class Fault:
    """A fault of the C library: what is edited, what the suite says of it, how a case loses what the fault needs."""

    name: str
    edits: tuple[Edit, ...]
    heal: Callable  # a case in which the fault does not show
    test: str  # that fails
    message: str = "lse|out"  # the beginning of what it says, as a regular expression
    check: str = "ops.dense_decode.calls.check"  # what that test does with a case and a backend
    case: object = None  # of the test; None: it draws them, and tells which one failed


def edited_copies(edits: tuple[Edit, ...], folder: Path) -> dict[Path, Path]:
    """Copies of the edited files in `folder`, by the files they are copies of."""
    texts: dict[str, str] = {}
    for edit in edits:
        texts[edit.file] = edit.applied(texts.get(edit.file) or (build.ROOT / edit.file).read_text())
    copies = {build.ROOT / file: folder / file for file in texts}
    for text, copy in zip(texts.values(), copies.values(), strict=True):
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.read_text() != text:
            copy.write_text(text)
    return copies


def edited_module(module: ModuleType, before: str, after: str) -> ModuleType:
    """The module with another text in the place of one that stands there exactly once."""
    edited = ModuleType(f"edited_{module.__name__}")
    source = Edit(module.__name__, before, after).applied(inspect.getsource(module))
    exec(compile(source, edited.__name__, "exec"), edited.__dict__)
    return edited


def faulty_library(fault: Fault) -> Path:
    """The library with the fault, without GPU kernels. Only the edited files are compiled anew."""
    assert all(edit.file.endswith(".c") for edit in fault.edits), "an edited header would not be found"
    folder = build.BUILD / "faulty" / fault.name.replace(" ", "-")
    return build.build_library(cpu_only=True, debug=True, out=folder, edited=edited_copies(fault.edits, folder))


# The kinds of calls that gpu/run_faults.py makes, of bfloat16 with 576 columns where the format has them, of codes also
# with 160, and what each needs of the kernel table. The first call of all, which tells whether there is a GPU, is one
# of dense_decode.
_COMBINES = ("combine_bf16_512", "plan")
_FIRST = "dense_decode_bf16_576_cluster1"
KERNELS_OF_CALLS = {
    "dense_decode": (
        _FIRST,
        "dense_decode_bf16_576_cluster2",
        "dense_decode_bf16_576_cluster1_pages",
        "dense_decode_bf16_576_cluster2_pages",
        "dense_decode_bf16_576_cluster1_invariant",
        "dense_decode_bf16_576_cluster2_invariant",
        "dense_decode_bf16_576_cluster1_pages_invariant",
        "dense_decode_bf16_576_cluster2_pages_invariant",
        "dense_decode_bf16_576_cluster1_gather",
        "fold_bf16_512",
        *_COMBINES,
    ),
    "dense_decode of codes": (
        _FIRST,
        "dense_decode_bf16_576_cluster1_v32",
        "dense_decode_bf16_576_cluster1_fp8",
        "dense_decode_bf16_576_cluster1_fp8_qgmma",
        "dense_decode_bf16_576_cluster1_gather_v32",
        "dense_decode_bf16_576_cluster1_gather_fp8",
        "dense_decode_bf16_160_cluster1_fp8",
        "dense_decode_bf16_160_cluster1_gather_fp8",
        "combine_bf16_128",
        *_COMBINES,
    ),
    "sparse_decode": (
        _FIRST,
        "sparse_decode_bf16_576",
        "sparse_decode_bf16_512",
        "sparse_decode_bf16_576_v32",
        "sparse_decode_bf16_576_v32_pair",
        "sparse_decode_bf16_512_model1",
        "sparse_decode_bf16_512_model1_pair",
        *_COMBINES,
    ),
}


@dataclass(frozen=True)
class KernelFault:
    """A fault of the GPU kernels, which gpu/build_faults.py compiles and gpu/run_faults.py tries on a GPU."""

    name: str
    edits: tuple[Edit, ...]
    always: bool = True  # False: an order that the hardware may keep by chance, so that missing it is no failure
    calls: tuple[str, ...] = ("dense_decode",)  # the kinds that should find it

    @property
    def kernels(self) -> tuple[str, ...]:
        """That are compiled."""
        return tuple(dict.fromkeys(name for kind in self.calls for name in KERNELS_OF_CALLS[kind]))


def faulty_tree(fault: KernelFault, folder: Path) -> None:
    """What the library with its kernels is built from, with the fault, as a tree of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("aot", "buildtools", "dsl_kernels", "libflashmla"):
        shutil.copytree(build.ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "generated"))
    shutil.copy(build.ROOT / "build.py", folder)
    edited_copies(fault.edits, folder)
