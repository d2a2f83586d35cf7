"""Other builds of the library, each behind a copy of the package of its own."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """An environment variable set for a while, and read by the libraries that are loaded."""
    before = os.environ.get(name)
    os.environ[name] = value
    _read()
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
        _read()


def _read() -> None:
    """By the package that is imported; builds that are compared force no kernels."""
    package = sys.modules.get("flashmla")
    if package is not None:
        package.read_environment()


def another_build(path: Path) -> ModuleType:
    """A second copy of the package, over the libflashmla at `path`."""

    def taken_out() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.split(".")[0] == "flashmla"]
        return {name: sys.modules.pop(name) for name in names}

    ours = taken_out()
    try:
        with environment("FLASHMLA_LIBRARY", str(path.resolve())):
            return importlib.import_module("flashmla")
    finally:
        taken_out()
        sys.modules.update(ours)


def named(text: str) -> tuple[str, Path]:
    """NAME=PATH"""
    name, separator, path = text.partition("=")
    if not (name and separator and Path(path).is_file()):
        raise argparse.ArgumentTypeError(f"{text}: NAME=PATH of a library is needed")
    return name, Path(path)
