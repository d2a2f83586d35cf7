"""Facts that stand in several languages are the same everywhere; the C side is read from the library's own tables."""

from __future__ import annotations

import importlib
import re
import sys
from types import SimpleNamespace

import pytest

import argument_tables
import build
import c_abi
import flashmla
import operations
import schedule
from buffers import DTYPES
from dsl_kernels.core import finding_params
from dsl_kernels.core.formats import CODES
from dsl_kernels.core.schedule_params import ROWS, UNIT
from dsl_kernels.variants import FAMILIES
from flashmla import _attention, _tune_search
from flashmla._cdef import ffi
from ops.dense_decode import oracle
from ops.dense_decode.case import OF_WIDER, ON_GPUS
from ops.plan_decode.test_plan_kernel import stand_ins

TABLES = argument_tables.operations()
FACTS = argument_tables.dump()
HEADERS = build.header_text()


def params_of(operation: str) -> dict:
    """The fields of an operation's params struct, as the header declares them."""
    return dict(ffi.typeof(f"flashmla_{operation}_params").fields)


def test_operations_have_the_same_names_everywhere():
    declared = set(re.findall(r"^typedef struct flashmla_(\w+)_params \{", HEADERS, re.MULTILINE))
    exported = {name for name in flashmla.__all__ if name in declared}
    assert set(TABLES) == declared - {"pool"} == exported == set(operations.NAMES)


@pytest.mark.parametrize("operation", TABLES.values(), ids=TABLES)
def test_a_table_is_that_of_the_header(operation):
    fields = params_of(operation.name)
    assert operation.params_size == ffi.sizeof(f"flashmla_{operation.name}_params")
    assert operation.first_size == c_abi.CCall(operation.name, {}).first_sizeof
    in_order = [field for _, field in ffi.typeof(f"flashmla_{operation.name}_params").fields]
    # Of a version that ended with padding, where the next field begins.
    ends = {field.offset + ffi.sizeof(field.type) for field in in_order} | {field.offset for field in in_order}
    assert list(operation.ends) == sorted(end for end in ends if end >= operation.first_size)
    assert operation.num_threads == ("num_threads" in fields)
    assert operation.stream_offset == fields["stream"].offset
    assert operation.scratch == (c_abi.scratch_field(operation.name) or "")
    if operation.scratch:
        assert operation.scratch_offset == fields[operation.scratch].offset
        assert operation.scratch_size_offset == fields[f"{operation.scratch}_size"].offset
    tensors = {name: field.offset for name, field in fields.items() if "DLTensor" in field.type.cname}
    assert {row.name: row.offset for row in operation.arguments} == tensors
    lists = {name for name in tensors if fields[name].type.cname.count("*") == 2}
    assert {row.name for row in operation.arguments if row.listed} == lists


@pytest.mark.parametrize("operation", TABLES.values(), ids=TABLES)
def test_known_flags_are_flags_of_the_header(operation):
    listed = HEADERS.split("typedef enum flashmla_flags {")[1].split("} flashmla_flags;")[0]
    flags = set(re.findall(r"^  FLASHMLA_(\w+) = \d+,", listed, re.MULTILINE))
    assert operation.flags & ~c_abi.flags(**dict.fromkeys(flags, True)) == 0


@pytest.mark.parametrize("operation", TABLES.values(), ids=TABLES)
def test_rows_of_the_kernel_table_are_of_known_operations_and_dtypes(operation):
    known = {element["name"] for element in FACTS["dtypes"]} | {"any"}
    for row in operation.cpu_kernels:
        assert row["operation"] == operation.name
        assert row["dtype"] in known
    listed = {row["name"] for row in flashmla.info()["kernels"] if row["target"] == "cpu"}
    assert {row["name"] for row in operation.cpu_kernels} <= listed


def test_element_types():
    assert {element["name"] for element in FACTS["dtypes"]} == set(c_abi.DTYPE_CODES)
    for element in FACTS["dtypes"]:
        assert element["bytes"] == DTYPES[element["name"]].itemsize == c_abi.DTYPE_CODES[element["name"]][1] // 8


def test_head_dimensions():
    geometries, of_kernels = ({tuple(pair) for pair in FACTS[name]} for name in ("geometries", "kernel_geometries"))
    assert geometries == set(oracle.D_V.items()) == set(_attention.D_V.items())
    assert of_kernels == {(v.d_qk, v.d_v) for v in FAMILIES["dense_decode"].variants}
    assert of_kernels < geometries


def test_head_dimensions_that_kernels_do():
    """Those of their own, and fewer RoPE columns where their loaders bring zeros instead."""
    done = {int(d_qk): kernel for d_qk, kernel in FACTS["d_qk_of_kernels"].items()}
    assert set(done) == set(ON_GPUS)
    wider = {d_qk: kernel for d_qk, kernel in done.items() if kernel != d_qk}
    assert wider == OF_WIDER
    variants = [v for v in FAMILIES["dense_decode"].variants if v.d_qk in wider.values()]
    assert variants
    assert all(variant.any_rope for variant in variants)


def test_families_of_kernels():
    assert FACTS["families"] == list(FAMILIES)


def test_a_unit_of_the_schedule():
    assert FACTS["unit"] == UNIT == ROWS == schedule.hopper(1).unit == schedule.cpu().unit == _tune_search.UNIT


@pytest.fixture
def pieces():
    """The kernels' arithmetic, as plain Python."""
    name = "dsl_kernels.core.pieces"
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, name, raising=False)
        for other, module in stand_ins().items():
            patch.setitem(sys.modules, other, module)
        yield importlib.import_module(name)
        sys.modules.pop(name)


def test_pieces_of_batch_invariant_schedules(pieces):
    """Where pieces and items begin: the CPU and the scheduler of the host have it of C, kernels of pieces.py."""
    costs = SimpleNamespace(
        piece_units=5, piece_overhead=2, by_small_piece=schedule.divisor(7), by_large_piece=schedule.divisor(12)
    )
    for quanta, begin, piece, count, levels, cost, affordable in FACTS["pieces"]:
        assert (pieces.piece_begin(quanta), pieces.piece_at(quanta), pieces.pieces_of(quanta)) == (begin, piece, count)
        assert len(levels) == pieces.LEVELS
        assert (pieces.cost_before_piece(costs, quanta), pieces.pieces_for(costs, quanta)) == (cost, affordable)
        for level, (of_item, items) in enumerate(levels):
            shift = pieces.item_shift(level)
            assert 1 << shift == of_item
            assert pieces.items_between(0, quanta, shift) == items


def test_users_are_told_where_pieces_end():
    usage = (build.ROOT / "docs" / "usage.md").read_text()
    gpu, cpu = schedule.hopper(1), schedule.cpu()
    few = f"GPU, at most {gpu.few_heads} query heads a KV head"
    for where, units in (("GPU", gpu.piece_units), (few, gpu.piece_units_few), ("CPU", cpu.piece_units)):
        tokens = UNIT * units
        up_to = tokens * schedule.SMALL_PIECES
        assert f"| {where} | {tokens:,} tokens | {up_to:,} | {2 * tokens:,} tokens |" in usage


@pytest.mark.parametrize("operation", TABLES.values(), ids=TABLES)
def test_a_table_is_as_recorded(operation):
    """Rules of invalid calls are generated from the table, so what it no longer says is no longer tested: a change of
    it must be meant. To record one, write the text of the failure's `found` into the file.
    """
    record = operations.FOLDER / operation.name / "arguments.txt"
    found = "".join(f"{described(row)}\n" for row in operation.arguments)
    assert record.read_text() == found


def described(row: argument_tables.Argument) -> str:
    """A row as a line."""
    names = ("free_innermost", "written", "mapped", "optional", "of_queries", "listed", "shape_only", "coded", "paged")
    dtypes = "/".join([*row.dtypes, *([f"as {row.like}"] if row.like else [])])
    facts = [f"({', '.join(row.axes)})", dtypes, f"aligned {row.alignment}", *(n for n in names if getattr(row, n))]
    if row.packed_axis:
        facts.append(f"{row.packed_axis} of bytes")
    if row.parted_axis:
        facts.append(f"{row.parted_axis} with q_rope")
    return f"{row.name}: {', '.join(facts)}"


def test_rows_of_the_quantised_formats():
    """The kernels that read them in place, and the C table."""
    text = (build.ROOT / "libflashmla/src/formats/formats.c").read_text()
    rows = [dict(re.findall(r"\.(\w+) = ([\w\"]+)", row)) for row in re.findall(r"\] = \{(.*?)\}", text, re.DOTALL)]
    table = {row["name"].strip('"'): row for row in rows if "quantized" in row}
    scaled = {name: codes for name, codes in CODES.items() if not codes.one_scale}
    assert set(table) == set(scaled)
    for name, codes in scaled.items():
        row = table[name]
        rope = row["columns"] != row["quantized"]
        assert codes.tile == int(row["tile"])
        assert codes.rope_at == (int(row["rope_at"]) if rope else None)
        assert codes.rope_in_v == (rope and row["columns"] == "512")
        assert codes.scales_at == (None if row.get("split") == "true" else int(row["scales_at"]))
        assert (codes.scales_at is None) == (row["scale"] == "FM_SCALE_E8M0")


def test_kinds_and_records_of_the_checking_mode():
    """findings.h, and the kernels that look at values."""
    text = (build.SOURCE / "attention" / "findings.h").read_text()
    names = re.findall(r"^  FM_VALUE_(\w+)[,\s]", text, re.MULTILINE)
    assert [getattr(finding_params, name) for name in names] == list(range(finding_params.VALUES))
    struct = text[text.index("typedef struct fm_finding") : text.index("} fm_finding;")]
    struct = re.sub(r"/\*.*?\*/", "", struct, flags=re.DOTALL)
    found, word = {}, 0  # two int32_t in one word
    for kind, fields in re.findall(r"\b(u?int\d+_t) ([^;]+);", struct):
        for name, number in re.findall(r"(\w+)(?:\[(\d+)\])?", fields):
            found[name] = word
            word += int(number or 1) / (2 if kind == "int32_t" else 1)
    assert 8 * word == finding_params.FINDING_BYTES
    assert found["request"] == finding_params.PLACE
    for name in ("token", "value", "limit", "found", "claimed", "ready", "reports"):
        assert found[name] == getattr(finding_params, name.upper())
    of_the_host = {name: at for name, at in found.items() if at >= finding_params.REPORTS}
    assert [*of_the_host] == ["reports", "told", "more_padding"]
    assert finding_params.REPORTS % 8 == 0, "a cache line of its own"
    assert int(re.search(r"FM_NO_SLOT = (-?\d+)", text)[1]) == finding_params.NO_SLOT
