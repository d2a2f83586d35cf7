"""Builds a library for each fault of the GPU kernels, and one without a fault; needs the kernel compiler, no GPU.

    python3 tests/gpu/build_faults.py [NAME...]      -> build/faulty-gpu/<name>/libflashmla.so.2

A name is that of a fault in ops/<operation>/gpu_faults.py, or "unmutated"; without names all are built. Each compiles
the kernels of its list that its edits touch, about 5 s a kernel. tests/gpu/run_faults.py runs them on a GPU.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import build  # noqa: E402 - found through the line above
import operations  # noqa: E402
from planted_faults import KERNELS_OF_CALLS, KernelFault, faulty_tree  # noqa: E402

LIBRARIES = build.BUILD / "faulty-gpu"
UNMUTATED = KernelFault("unmutated", (), calls=tuple(KERNELS_OF_CALLS))


def faults() -> dict[str, KernelFault]:
    """By the names of their folders; the library without a fault comes first."""
    modules = operations.modules("gpu_faults").values()
    found = [UNMUTATED, *(fault for module in modules for fault in module.GPU_FAULTS)]
    return {fault.name.replace(" ", "-"): fault for fault in found}


def build_one(name: str, fault: KernelFault) -> Path:
    """The library, made in a tree of its own; kernels that the edits do not touch come from the common cache."""
    tree = build.BUILD / "faulty-trees" / name
    faulty_tree(fault, tree)
    (tree / "build").mkdir()

    def run(*command: object) -> None:
        subprocess.run([sys.executable, *map(str, command)], cwd=tree, check=True)

    run("-m", "aot", "build", "--only", *fault.kernels, "--cache", build.BUILD / "kernels")
    run("-c", "import build, pathlib; build.build_library(out=pathlib.Path('out').resolve())")
    made = LIBRARIES / name / build.SONAME
    made.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tree / "out" / build.SONAME, made)
    return made


def main() -> None:
    known = faults()
    names = [name.replace(" ", "-") for name in sys.argv[1:]] or list(known)
    if unknown := set(names) - set(known):
        sys.exit(f"no such fault: {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    for name in names:
        print(build_one(name, known[name]), flush=True)


if __name__ == "__main__":
    main()
