"""Faults of append_kv on the CPU, each of which the suite must find."""

from __future__ import annotations

from buffers import PAGES, Layout, Pages
from ops.append_kv.calls import WriteCase
from planted_faults import Edit, Fault

__all__ = ["FAULTS", "Layout", "Pages", "WriteCase"]  # what a drawn case is written with

ANY_TOKENS = "tests/ops/append_kv/test_legal_calls.py::test_any_tokens_are_written_as_the_oracle_says[cpu]"
FOLDER = "libflashmla/src/formats/"


def fault(name: str, file: str, before: str, after: str, heal, **more) -> Fault:
    where = {"test": ANY_TOKENS, "check": "ops.append_kv.calls.check"} | more
    return Fault(name, (Edit(FOLDER + file, before, after),), heal, message="cache", **where)


FAULTS = [
    fault(
        "slot -1 is the first one",
        "cpu_write.c",
        "const uint64_t slot = (uint64_t)fm_slot_of(write, token);",
        "const int64_t s = fm_slot_of(write, token);\n      const uint64_t slot = s == -1 ? 0 : (uint64_t)s;",
        lambda case: case.but(outside=0.0),
    ),
    fault(
        "scale of the limit",  # 448 times a power of two takes the next one
        "tiles.c",
        "(largest + 0x1fffff)",
        "(largest + 0x200000)",
        lambda case: case.but(kv_format="bf16", cache_layout=PAGES),
    ),
    fault(
        "scales behind a split page",  # begin where those of a page of one token do
        "pages.c",
        "(int64_t)pages->page_size * format->row_bytes",
        "(int64_t)format->row_bytes",
        lambda case: case.but(page_size=1),
    ),
    fault(
        "unrounded scales",
        "write.c",
        "write->unrounded = (scalars.flags & FLASHMLA_UNROUNDED_SCALES) != 0;",
        "write->unrounded = false;",
        lambda case: case.but(unrounded=False),
    ),
    fault(
        "an infinity is a number",
        "tiles.c",
        "if (largest >= FM_INFINITY_BITS) {",
        "if (largest > FM_INFINITY_BITS) {",
        lambda case: case.but(kv_format="bf16", cache_layout=PAGES),
    ),
    fault(
        "a scale that is given",  # is what codes are divided by
        "tiles.c",
        "fm_e4m3_of_any(columns[i] / scale)",
        "fm_e4m3_of_any(columns[i] * scale)",
        lambda case: case.but(descale=None),
    ),
    fault(
        "columns of rope as codes",  # overwrite those of latent
        "cpu_write.c",
        "write->rope_bytes, to + latent);",
        "write->rope_bytes, to + 0 * latent);",
        lambda case: case.but(split=False),
    ),
]
