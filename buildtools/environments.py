"""Virtual environments with the pinned requirements of pyproject.toml, and the GPU kernels that are compiled there."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from buildtools.tree import PACKAGE, ROOT, digest, run, say

if TYPE_CHECKING:
    from collections.abc import Sequence


def extras(*names: str) -> list[str]:
    """The requirements that pyproject.toml pins: the package's own and those of the named extras."""
    try:
        toml = importlib.import_module("tomllib")
    except ModuleNotFoundError:  # Python 3.10
        toml = importlib.import_module("pip._vendor.tomli")
    project = toml.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(requirement for name in names for requirement in optional[name])]


def ensure_venv(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of virtual environment `name`, with the requirements installed; remembered by a stamp."""
    folder = ROOT / name
    python = folder / "bin" / "python"
    stamp = folder / f"installed-{digest(*requirements)[:12]}"
    if stamp.exists():
        return python
    has_pip = importlib.util.find_spec("ensurepip") is not None
    if not python.exists():
        # Debian splits ensurepip off python3: without it the outer pip installs into the environment.
        run([sys.executable, "-m", "venv", *(() if has_pip else ("--without-pip",)), folder])
    pip: list[str | Path] = [python, "-m", "pip"] if has_pip else [sys.executable, "-m", "pip", "--python", python]
    run([*pip, "install", "--disable-pip-version-check", *requirements])
    for libraries in folder.glob("lib/python3.*/site-packages"):
        (libraries / "flashmla-checkout.pth").write_text(f"{PACKAGE.parent}\n")
    stamp.write_text("\n".join(requirements) + "\n")
    return python


def enter_venv(requirements: Sequence[str]) -> None:
    """Goes on inside `.venv`: replaces this process unless it runs there already."""
    python = ensure_venv(".venv", requirements)
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        os.execv(python, [str(python), str(ROOT / "build.py"), *sys.argv[1:]])


def ensure_kernels() -> None:
    """Compiles the GPU kernels where the kernel compiler is installed; `aot` skips what did not change."""
    if not (ROOT / "aot" / "__main__.py").exists():
        return
    try:
        importlib.metadata.version("nvidia-cutlass-dsl")
    except importlib.metadata.PackageNotFoundError:
        say("nvidia-cutlass-dsl is not installed (extra [aot]): the GPU kernels are not compiled anew")
        return
    run([sys.executable, "-m", "aot", "build"])


def has_driver() -> bool:
    """A CUDA driver is installed."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
