"""The text of tuning files, written from its description alone."""

from __future__ import annotations

import re

from dsl_kernels.core.formats import CODES

INT32_MAX = 2**31 - 1
PLACE = {"gpu": "NVIDIA Stub", "architecture": "90", "processors": "132", "driver": "12000"}
FORMATS = ("bf16", "v32", "v32_nope", "model1", "v41", "fp8")
DTYPES = ("bfloat16", "float16", "float32", "int32", "int64", "uint8", "int8", "float8_e4m3fn")
POLICIES = ("rule", "normal", "first")
NUMBERS = {  # least and most
    **dict.fromkeys(("d_qk", "h_q", "h_kv", "s_q", "batch_from", "batch_to"), (1, INT32_MAX)),
    **dict.fromkeys(("page_size", "window", "extra_topk", "capacity_from", "capacity_to"), (0, INT32_MAX)),
    **dict.fromkeys(("ns", "default_ns"), (0, INT32_MAX)),
    "varlen": (0, 1),
    "num_splits": (0, 1024),
}
ORDER = ("operation", "dtype", "d_qk", "h_q", "h_kv", "s_q", "varlen", "page_size", "window", "extra_topk", "kv_format")
ORDER += ("batch_from", "batch_to", "capacity_from", "capacity_to", "kernel", "num_splits", "l2_policy", "ns")
ORDER += ("default_ns",)
assert set(CODES) | {"bf16"} <= set(FORMATS)

STEP = {
    "operation": "dense_decode", "dtype": "bfloat16", "d_qk": 576, "h_q": 128, "h_kv": 1, "s_q": 1, "varlen": 0,
    "page_size": 64, "window": 0, "extra_topk": 0, "kv_format": "bf16", "batch_from": 1, "batch_to": 8,
    "capacity_from": 64, "capacity_to": 4096, "kernel": "-", "num_splits": 2, "l2_policy": "first", "ns": 9000,
    "default_ns": 10000,
}  # fmt: skip


def line(entry: dict) -> str:
    return "entry " + " ".join(f"{name}={entry[name]}" for name in ORDER) + "\n"


def signed(text: bytes) -> bytes:
    """With its last line: FNV-1a of what is before."""
    value = 0xCBF29CE484222325
    for byte in text:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return text + f"end {value:016x}\n".encode()


def head(kernels: str, **place: str) -> str:
    facts = PLACE | place
    return "flashmla tuning 1\n" + "".join(f"{name} {facts[name]}\n" for name in PLACE) + f"kernels {kernels}\n"


def _number(text: str, least: int, most: int) -> bool:
    return re.fullmatch("0|[1-9][0-9]*", text) is not None and least <= int(text) <= most


def is_entry(text: str, operations: set[str], kernels: set[str]) -> bool:
    """Whether a line is one of an entry."""
    words = {"operation": operations, "dtype": DTYPES, "kv_format": FORMATS, "kernel": kernels | {"-"}}
    words["l2_policy"] = POLICIES
    parts = text.split(" ")
    if parts[0] != "entry" or len(parts) != len(ORDER) + 1:
        return False
    found = {}
    for name, part in zip(ORDER, parts[1:], strict=True):
        key, equals, value = part.partition("=")
        good = value in words[name] if name in words else _number(value, *NUMBERS[name])
        if key != name or not equals or not good:
            return False
        found[name] = value
    return all(int(found[f"{of}_from"]) <= int(found[f"{of}_to"]) for of in ("batch", "capacity"))


def is_file(text: bytes, digest: str, operations: set[str], kernels: set[str]) -> bool:
    """Whether signed text is that of a file for these kernels, whatever its GPU is."""
    if b"\0" in text:
        return False
    lines = text.decode("latin-1").split("\n")
    if lines.pop() != "" or len(lines) < 6:
        return False
    title, gpu, architecture, processors, driver, of_kernels, *entries = lines
    numbers = (architecture, "architecture "), (processors, "processors "), (driver, "driver ")
    return (
        title == "flashmla tuning 1"
        and gpu.startswith("gpu ")
        and 1 <= len(gpu) - 4 < 128
        and all(one.startswith(name) and _number(one[len(name) :], 0, INT32_MAX) for one, name in numbers)
        and of_kernels == f"kernels {digest}"
        and all(is_entry(one, operations, kernels) for one in entries)
    )
