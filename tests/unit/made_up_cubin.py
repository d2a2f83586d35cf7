"""A cubin as the compiler writes it, as far as aot/cubin.py reads it: sections with attributes, and no code."""

from __future__ import annotations

import struct


def image(entry: str, params: list[int], *, threads: int, registers: int = 168, stack: int = 0, abi: int = 7) -> bytes:
    layout, offset = [], 0
    for i, size in enumerate(params):
        layout.append(_attribute(0x17, struct.pack("<IHHI", 0, i, offset, size << 18 | 0xF000)))
        offset += size
    of_kernel = b"".join([*reversed(layout), _attribute(0x10, struct.pack("<III", threads, 1, 1))])
    of_module = _attribute(0x2F, struct.pack("<II", 7, registers)) + _attribute(0x11, struct.pack("<II", 7, stack))
    flag = struct.pack("<BBH", 3, 0x1B, 0x80)  # an attribute without a size, whose value is not looked at
    return elf(
        {
            ".nv.info": of_module,
            f".nv.info.{entry}": flag + of_kernel,
            f".text.{entry}": bytes(16),
        },
        abi,
    )


def _attribute(number: int, value: bytes) -> bytes:
    return struct.pack("<BBH", 4, number, len(value)) + value


def elf(sections: dict[str, bytes], abi: int) -> bytes:
    names = {".shstrtab": b"\0".join([b"", b".shstrtab", *(name.encode() for name in sections), b""])} | sections
    start, headers, content = 64, [bytes(64)], b""
    for name, section in names.items():
        where = names[".shstrtab"].index(b"\0" + name.encode() + b"\0") + 1
        headers.append(struct.pack("<IIQQQQ24x", where, 1, 0, 0, start + len(content), len(section)))
        content += section
    ident = b"\x7fELF\x02\x01\x01\x41" + bytes([abi]) + bytes(7)
    head = struct.pack("<24xQ10xHHH", start + len(content), 64, len(headers), 1)
    return ident + head + content + b"".join(headers)
