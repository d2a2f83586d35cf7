"""What a cubin says of itself, an ELF file: entry, parameters, threads, registers, memory of a thread, ELF ABI version;
and its instructions, counted through NVIDIA's disassembler.

The disassembler (nvidia-cuda-nvdisasm, extra [test]) is optional for a build; the checks need it.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsl_kernels.core.variant import INSPECTED

SYSTEM_ATOMICS = "atomics of system scope"
ELF_ABI = 8  # byte of an ELF file: EI_ABIVERSION
NO_BYTES = 8  # type of a section that takes memory only (SHT_NOBITS)
WITH_SIZE = 4  # form of an attribute: two bytes of size, then so many bytes
REQNTID, FRAME_SIZE, KPARAM_INFO, REGCOUNT = 0x10, 0x11, 0x17, 0x2F  # attributes (EIATTR_*)


def facts(cubin: bytes) -> dict[str, Any]:
    """Of the one kernel in a cubin."""
    sections = dict(_sections(cubin))
    (entry,) = (name.removeprefix(".text.") for name in sections if name.startswith(".text."))
    module, kernel = _attributes(sections[".nv.info"]), _attributes(sections[f".nv.info.{entry}"])
    # of each parameter (number, offset, size << 18 | ...)
    layout = sorted(struct.unpack("<4xHHI", value) for value in kernel[KPARAM_INFO])
    return {
        "elf_abi": cubin[ELF_ABI],
        "entry": entry,
        "params": [size >> 18 for _, _, size in layout],
        "threads": struct.unpack("<III", kernel[REQNTID][0])[0],
        "registers": struct.unpack("<II", module[REGCOUNT][0])[1],
        "stack": struct.unpack("<II", module[FRAME_SIZE][0])[1],
        "local": len(sections.get(f".nv.local.{entry}", b"")),
    }


def _sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents; zeros for those that only take memory."""
    (start,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, start + size * i) for i in range(count)]
    strings = headers[names][4]
    for name, kind, _, _, offset, length in headers:
        where = strings + name
        content = bytes(length) if kind == NO_BYTES else elf[offset : offset + length]
        yield elf[where : elf.index(0, where)].decode(), content


def _attributes(section: bytes) -> dict[int, list[bytes]]:
    """Values by attribute, in order."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(section):
        form, attribute, size = struct.unpack_from("<BBH", section, at)
        length = size if form == WITH_SIZE else 0  # else those two bytes are the value
        found.setdefault(attribute, []).append(section[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def offsets(cubin: bytes) -> list[int]:
    """Where the parameters of the one kernel lie, bytes from the first."""
    sections = dict(_sections(cubin))
    (kernel,) = (content for name, content in sections.items() if name.startswith(".nv.info."))
    layout = sorted(struct.unpack("<4xHHI", value) for value in _attributes(kernel)[KPARAM_INFO])
    return [offset for _, offset, _ in layout]


def sass(cubin: bytes, disassembler: str) -> str:
    """Its instructions as text."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        return subprocess.run([disassembler, "-c", f.name], capture_output=True, text=True, check=True).stdout


def count_instructions(cubin: bytes, disassembler: str) -> dict[str, int]:
    text = sass(cubin, disassembler)
    counts = {name: len(re.findall(rf"\b{re.escape(name)}\b", text)) for name in INSPECTED}
    return counts | {SYSTEM_ATOMICS: len(re.findall(r"\b(?:ATOM|RED)[A-Z]?\.\S*\bSYS\b", text))}


def disassembler() -> str | None:
    """Path of nvdisasm, if it is installed. Its wheel puts it under nvidia/*/bin, without the execute bit."""
    site = Path(sysconfig.get_paths()["purelib"])
    for path in sorted(site.glob("nvidia/**/bin/nvdisasm")):
        if not os.access(path, os.X_OK):
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)
    return shutil.which("nvdisasm")
