"""libflashmla for AArch64, compiled here and run by an emulator of its instructions.

Calls through `c_abi` go to a process under qemu (runner.c) that shares memory with this one, at the same address.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

import backends
import build
from buffers import POISON
from flashmla._cdef import ffi
from flashmla._library import lib

HERE = Path(__file__).parent
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
SYSTEM = Path("/usr/aarch64-linux-gnu")  # where Debian puts the C library for it
FLAGS = [*build.compile_flags(sanitize=False, debug=False, kernels=False), "-march=armv8-a"]
ARENA, ARENA_BYTES = 0x10_0000_0000_00, 1 << 30
TEXT_BYTES = 1024


def missing() -> str:
    """What is not installed, or nothing."""
    tools = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]
    if not tools and not (SYSTEM / "lib" / "libc.so.6").exists():
        tools = [f"a C library in {SYSTEM}"]
    return f"not installed: {', '.join(tools)} (Debian: gcc-aarch64-linux-gnu, qemu-user)" if tools else ""


def command(program: Path) -> list[str | Path]:
    return [EMULATOR, "-L", SYSTEM, program]


def compile_objects(sources: list[Path], flags: list[str]) -> list[Path]:
    """Objects for AArch64, cached like those of the library."""
    before = os.environ.get("CC")
    os.environ["CC"] = COMPILER
    try:
        headers = [path for folder in (build.INCLUDE, build.SOURCE, HERE.parent) for path in folder.rglob("*.h")]
        headers += [*build.SOURCE.rglob("*.inc")]
        shared = build.shared_digest(sorted(headers))
        folder = build.objects_folder(flags)
        with build.one_build_at_a_time():
            return [build.compile_one(source, flags, shared, folder)[0] for source in sources]
    finally:
        os.environ.pop("CC") if before is None else os.environ.update(CC=before)


def link(objects: list[Path], made: Path, *flags: str) -> Path:
    subprocess.run([COMPILER, *flags, "-o", made, *objects, *build.LIBRARIES], check=True)
    return made


class Arena:
    """Memory at a fixed address, where the emulated process has it, too. Given out in pieces, taken back as a whole."""

    def __init__(self, file: Path):
        self.file, self.used = file, 0
        with file.open("wb") as handle:
            handle.truncate(ARENA_BYTES)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        with file.open("r+b") as handle:
            fixed = mmap.MAP_SHARED | 0x100000  # MAP_FIXED_NOREPLACE
            access = mmap.PROT_READ | mmap.PROT_WRITE
            found = libc.mmap(ARENA, ARENA_BYTES, access, fixed, handle.fileno(), 0)
        assert found == ARENA
        self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * ARENA_BYTES).from_address(ARENA))

    def take(self, size: int) -> int:
        """The address of so many bytes, a multiple of 64."""
        address = ARENA + self.used
        self.used += -(-max(size, 1) // 64) * 64
        assert self.used <= ARENA_BYTES
        return address

    def array(self, size: int) -> np.ndarray:
        start = self.take(size) - ARENA
        return self.bytes[start : start + size]


class Adapter(backends.NumpyAdapter):
    """NumPy arrays in the arena."""

    name = "emulated"

    def __init__(self, arena: Arena):
        self.arena = arena

    def poisoned(self, size: int) -> np.ndarray:
        buffer = self.arena.array(size)
        buffer[:] = POISON
        return buffer

    def place(self, host: np.ndarray) -> np.ndarray:
        buffer = self.arena.array(host.size)
        buffer[:] = host
        return buffer


class Foreign:
    """In the place of cffi's `ffi`: what it makes lies in the arena."""

    def __init__(self, arena: Arena):
        self.new = ffi.new_allocator(lambda size: ffi.cast("void *", arena.take(size)), None)

    def __getattr__(self, name: str):
        return getattr(ffi, name)


class Library:
    """In the place of cffi's `lib`: functions of the emulated library."""

    def __init__(self, arena: Arena, runner: Path, library: Path):
        self._arena = arena
        self._process = subprocess.Popen(
            [*command(runner), library, arena.file, str(ARENA), str(ARENA_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def __getattr__(self, name: str):
        getattr(lib, name)  # AttributeError: there is no such function
        if name in {"flashmla_last_error", "flashmla_last_kernel"}:
            return lambda: self._text(name)
        return lambda *arguments: self._call(name, *(int(ffi.cast("uintptr_t", one)) for one in arguments))

    def _call(self, name: str, *arguments: int) -> int:
        self._process.stdin.write(f"{name} {' '.join(map(str, arguments))}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"{name} ended the process with status {self._process.wait()}"
        return int(answer)

    def _text(self, name: str):
        address = self._arena.take(TEXT_BYTES)
        self._call(name, address)
        return ffi.cast("char *", address)

    def close(self) -> None:
        self._process.stdin.close()
        assert self._process.wait(30) == 0
