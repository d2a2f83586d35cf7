"""The C library's own tables of its operations and their tensors: tests take argument rules from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import build

SOURCE = Path(__file__).parent / "c" / "dump_operations.c"
STORED = build.BUILD / "operations.json"


BYTES = ("uint8", "int8", "float8_e4m3fn")


@dataclass(frozen=True)
class Argument:
    """A tensor of an operation: fm_argument of libflashmla/src/core/argument.h."""

    name: str
    offset: int
    axes: tuple[str, ...]
    dtypes: tuple[str, ...]
    like: str  # the tensor whose dtype it may have too, or ""
    alignment: int  # bytes
    free_innermost: bool
    written: bool
    mapped: bool  # on CUDA, by a tensor map
    optional: bool
    of_queries: bool
    listed: bool
    shape_only: bool
    coded: bool  # it may be codes, too, in the form of a cache of codes with one scale
    paged: bool  # it is `packed` in the form of a cache that is quantised
    packed_axis: str  # the innermost axis then, if it is another one
    parted_axis: str  # the innermost axis in the form of queries in two parts, if it is another one
    packed: bool = False  # bytes, and a page of them is contiguous

    def in_form(
        self, *, varlen: bool, stacked: bool, packed: bool = False, coded: bool = False, parted: bool = False
    ) -> Argument:
        """The row in a call with packed queries, with one tensor in the place of a list, of a quantised cache, or with
        queries in two parts.
        """
        axes = self.axes
        if parted and self.parted_axis:
            axes = (*axes[:-1], self.parted_axis)
        if varlen and self.of_queries:
            axes = tuple("total_q" if axis == "s_q" else axis for axis in axes if axis != "batch")
        if stacked and self.listed:
            axes = ("num_states", *axes)
        row = replace(self, axes=axes, listed=self.listed and not stacked)
        if coded and self.coded:
            row = replace(row, dtypes=("bfloat16", *BYTES))
        if not (packed and self.paged):
            return row
        last = self.packed_axis or axes[-1]
        return replace(row, axes=(*axes[:-1], last), dtypes=BYTES, like="", packed=True)

    @property
    def ranks(self) -> set[int]:
        """Its ranks in all forms."""
        return {len(self.in_form(varlen=varlen, stacked=stacked).axes) for varlen in (0, 1) for stacked in (0, 1)}


@dataclass(frozen=True)
class Operation:
    """A descriptor: fm_operation of libflashmla/src/core/operation.h."""

    name: str
    params_size: int
    first_size: int
    flags: int
    num_threads: bool  # it has this field
    stream_offset: int
    scratch: str
    scratch_offset: int
    scratch_size_offset: int
    may_be_empty: tuple[str, ...]  # axes
    arguments: tuple[Argument, ...]
    ends: tuple[int, ...]  # of the params struct: sizes that cut no field
    cpu_kernels: tuple[dict, ...]


@cache
def dump() -> dict:
    """Everything that tests/c/dump_operations.c prints; where there is no compiler, what it printed last."""
    if shutil.which(os.environ.get("CC", "gcc")):
        text = printed()
        fresh = STORED.with_suffix(f".{os.getpid()}")  # other test workers may be reading
        fresh.write_text(text)
        fresh.replace(STORED)
        return json.loads(text)
    return json.loads(STORED.read_text())


def printed() -> str:
    """Compiles the program and runs it."""
    flags = build.compile_flags(sanitize=False, debug=True, kernels=False)
    folder = build.BUILD / "objects" / build.digest(*flags)[:12]
    headers = sorted([*build.INCLUDE.rglob("*.h"), *(p for p in build.SOURCE.rglob("*") if p.suffix in {".h", ".inc"})])
    with build.one_build_at_a_time():
        folder.mkdir(parents=True, exist_ok=True)
        sources = [SOURCE, *sorted(build.SOURCE.rglob("*.c"))]
        shared = build.shared_digest(headers)
        objects = [build.compile_one(source, flags, shared, folder)[0] for source in sources]
        program = folder / "dump_operations"
        subprocess.run([build.compiler(), "-o", program, *objects, *build.LIBRARIES], check=True)
        return subprocess.run([program], check=True, capture_output=True, text=True).stdout


@cache
def operations() -> dict[str, Operation]:
    """By name."""
    found = {}
    for facts in dump()["operations"]:
        rows = [row | {"axes": tuple(row["axes"]), "dtypes": tuple(row["dtypes"])} for row in facts["arguments"]]
        lists = {
            "may_be_empty": tuple(facts["may_be_empty"]),
            "arguments": tuple(Argument(**row) for row in rows),
            "ends": tuple(facts["ends"]),
            "cpu_kernels": tuple(facts["cpu_kernels"]),
        }
        found[facts["name"]] = Operation(**facts | lists)
    return found
