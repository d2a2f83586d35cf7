"""Faults of sparse_decode on the CPU, each of which the suite must find."""

from __future__ import annotations

from buffers import Layout, Pages
from ops.sparse_decode.case import Cache, SparseCase, SparseLayouts
from planted_faults import Edit, Fault

__all__ = ["FAULTS", "Cache", "Layout", "Pages", "SparseCase", "SparseLayouts"]  # what a drawn case is written with

ANY_CALL = "tests/ops/sparse_decode/test_legal_calls.py::test_any_legal_call_is_the_oracle[cpu]"
CPU, CHECK = "libflashmla/src/ops/sparse_decode/cpu.c", "libflashmla/src/ops/sparse_decode/check.c"
ROWS = "libflashmla/src/attention/cpu.c"

INSIDE = "  if (slot < 0 || slot >= fm_slots_of(pages)) return (fm_token){NULL, NULL};\n"
PLACE = "  return fm_token_at(pages, slot / pages->page_size, slot % pages->page_size);\n"


def fault(name: str, edits: tuple[tuple[str, str, str], ...], heal, message: str = "lse|out") -> Fault:
    made = tuple(Edit(*edit) for edit in edits)
    return Fault(name, made, heal, ANY_CALL, message, "ops.sparse_decode.calls.check")


def all_inside(case: SparseCase) -> SparseCase:
    return case.but(outside=0.0)


def whole_units(case: SparseCase) -> SparseCase:
    return case.but(topk=64, lengths=None)


FAULTS = [
    fault(
        "index -1 is the first slot",
        (
            (CPU, INSIDE, INSIDE.replace("slot < 0 ||", "slot < -1 ||")),
            (
                CPU,
                PLACE,
                PLACE.replace("slot /", "(slot < 0 ? 0 : slot) /").replace("slot %", "(slot < 0 ? 0 : slot) %"),
            ),
        ),
        all_inside,
    ),
    fault("one slot more", ((CPU, INSIDE, INSIDE.replace("slot >= ", "slot > ")),), all_inside),
    fault(
        "an index outside is a row of zeros",  # that is attended
        (
            (
                CPU,
                INSIDE,
                "  static const char zeros[4096] __attribute__((aligned(64)));\n"
                + INSIDE.replace("{NULL, NULL}", "{(char *)zeros, (char *)zeros}"),
            ),
        ),
        all_inside,
    ),
    fault(
        "indices in 32 bits",
        ((CPU, "slot = fm_index_at(", "slot = (int32_t)fm_index_at("),),
        lambda case: case.but(index_dtype="int32"),
    ),
    fault(
        "indices of the first query token",
        ((CPU, "rows->queries.begin + rows->first_token)", "rows->queries.begin)"),),
        lambda case: case.but(s_q=1),
    ),
    fault(
        "indices of the first request",
        ((CPU, "fm_first_index(selection, rows->request,", "fm_first_index(selection, 0,"),),
        lambda case: case.but(
            batch=1,
            lengths=case.main.lengths and case.main.lengths[:1],
            extra=case.extra and case.extra.but(lengths=case.extra.lengths and case.extra.lengths[:1]),
        ),
    ),
    fault(
        "all indices count",
        ((CHECK, "work->lengths = call->views[FM_TOPK_LENGTH].data;", "work->lengths = NULL;"),),
        lambda case: case.but(lengths=None),
    ),
    fault(
        "all extra indices count",
        ((CHECK, "work->extra_lengths = call->views[FM_EXTRA_TOPK_LENGTH].data;", "work->extra_lengths = NULL;"),),
        lambda case: case.but(extra=case.extra.but(lengths=None)),
    ),
    fault(
        "extra indices begin within a unit",  # right behind the main ones
        ((CPU, ".begin = is_extra ? extra_begin : 0,", ".begin = is_extra ? items + 0 * extra_begin : 0,"),),
        whole_units,
    ),
    fault(
        "sink in base 2",
        ((ROWS, "(1 + exp((double)sink[", "(1 + exp2((double)sink["),),
        lambda case: case.but(sink=None),
        "out",
    ),
    fault(
        "sink of another head",
        ((ROWS, "sink[head_of(attention, rows, row)]", "sink[head_of(attention, rows, row) & ~1]"),),
        lambda case: case.but(h_q=1),
        "out",
    ),
]
