"""Which sources decide a kernel: those that its module imports."""

from __future__ import annotations

import ast
import hashlib
from modulefinder import ModuleFinder
from pathlib import Path

from . import paths

DECIDING = ("compiling.py", "cubin.py")  # files here that decide a cubin or its facts


def imported(module: str) -> dict[str, Path]:
    """All sources of this project that a module imports, wherever in it, by their names from the root."""
    finder = ModuleFinder(path=[str(paths.KERNELS.parent)])
    finder.import_hook(module)
    files = [Path(vars(found)["__file__"]) for found in finder.modules.values()]
    return {path.relative_to(paths.KERNELS.parent).as_posix(): path for path in files}


def digest(module: str) -> str:
    """Hash over the sources that a kernel's module imports, and over what compiles it."""
    named = imported(module) | {f"aot/{name}": paths.AOT / name for name in DECIDING}
    found = hashlib.sha256()
    for name, path in sorted(named.items()):
        found.update(name.encode() + b"\0" + _deciding(path) + b"\0")
    return found.hexdigest()


def _deciding(path: Path) -> bytes:
    """The file, of a config.py without the table: a kernel's own line is in its key."""
    content = path.read_bytes()
    if path.name == "config.py":
        lines = content.splitlines(keepends=True)
        for node in ast.parse(content).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VARIANTS":
                lines[node.lineno - 1 : node.end_lineno] = []
        content = b"".join(lines)
    return content
