"""Faults of gather_kv on the CPU, each of which the suite must find."""

from __future__ import annotations

from buffers import Layout, Pages
from ops.gather_kv.calls import ReadCase
from planted_faults import Edit, Fault

__all__ = ["FAULTS", "Layout", "Pages", "ReadCase"]  # what a drawn case is written with

ANY_REQUESTS = "tests/ops/gather_kv/test_legal_calls.py::test_any_requests_are_gathered_as_the_oracle_says[cpu]"
FILE = "libflashmla/src/formats/cpu_read.c"


def fault(name: str, before: str, after: str, heal) -> Fault:
    return Fault(name, (Edit(FILE, before, after),), heal, ANY_REQUESTS, "out", "ops.gather_kv.calls.check")


FAULTS = [
    fault(
        "first token of a request",
        "read->seq_starts != NULL ? read->seq_starts[request * read->seq_starts_stride] : 0",
        "0",
        lambda case: case.but(starts=None),
    ),
    fault(
        "rows behind the last request",  # are its tokens, too
        "if (row < begin || row >= read->cu_seqlens[(request + 1) * read->cu_seqlens_stride])",
        "if (row < begin)",
        lambda case: case.but(behind=0),
    ),
    fault(
        "page -1",
        "const int32_t block = read->block_table[request * read->block_table_stride + entry];",
        "int32_t block = read->block_table[request * read->block_table_stride + entry];\n  if (block == -1) block = 0;",
        lambda case: case.but(outside=0.0),
    ),
]
