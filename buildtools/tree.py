"""Places in the tree, and what every step of a build needs: progress, commands, hashes, the lock."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = ROOT / "libflashmla" / "include"
HEADER = INCLUDE / "flashmla" / "flashmla.h"
SOURCE = ROOT / "libflashmla" / "src"
GENERATED = ROOT / "libflashmla" / "generated"
PACKAGE = ROOT / "bindings" / "python" / "flashmla"
BUILD = ROOT / "build"
CORES = len(os.sched_getaffinity(0))


def headers() -> list[Path]:
    """What declares the public interface: the header that users include, then those that it includes."""
    included = re.findall(r'^#include "(.+)"$', HEADER.read_text(), re.MULTILINE)
    return [HEADER, *(HEADER.with_name(name) for name in included)]


def header_text() -> str:
    """All of these as one text."""
    return "".join(path.read_text() for path in headers())


def header_number(name: str) -> int:
    """An integer `#define` of the headers, the only place that holds versions."""
    found = re.search(rf"^#define FLASHMLA_{name} (\d+)$", header_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{HEADER} and what it includes do not define FLASHMLA_{name}")
    return int(found[1])


def version() -> str:
    """Version of the headers; pyproject.toml asks here."""
    return ".".join(str(header_number(f"VERSION_{part}")) for part in ("MAJOR", "MINOR", "PATCH"))


SONAME = f"libflashmla.so.{header_number('ABI_VERSION')}"


def say(text: str) -> None:
    """Progress goes to stderr: stdout belongs to the command's result."""
    print(text, file=sys.stderr, flush=True)


def run(command: Sequence[str | Path], *, title: str | None = None, **environment: str) -> None:
    """Runs a command in the root of the tree and stops the build if it fails; `title` is shown instead of it."""
    say(title or f"$ {shlex.join(map(str, command))}")
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode
    if status != 0:
        raise SystemExit(status)


def digest(*parts: str | bytes | Path) -> str:
    """One hash over texts and the contents of files."""
    state = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


@contextlib.contextmanager
def one_build_at_a_time() -> Iterator[None]:
    """Parallel test workers may ask for the same library."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def link_to(target: Path, name: Path) -> None:
    """`name`, a symbolic link to `target`, replaced in one step."""
    fresh = name.with_name(f"{name.name}.{os.getpid()}")
    fresh.symlink_to(os.path.relpath(target, name.parent))
    fresh.replace(name)
