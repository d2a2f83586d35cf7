"""Faults of the host's schedule, each of which the suite must find."""

from ops.dense_decode.case import Case
from ops.dense_decode.relations import CHUNK, INVARIANT
from ops.plan_decode.relations import LEVELS, RAGGED
from planted_faults import Edit, Fault

CHUNKS = "tests/ops/dense_decode/test_chunks.py::test_every_size_of_chunks[cpu-causal-8]"
ALONE = "tests/ops/dense_decode/test_batch_invariance.py::test_every_request_alone_and_among_many[cpu-bfloat16-16]"
LEVEL = "tests/ops/plan_decode/test_schedule.py::test_every_level_is_found"
EVEN = "tests/ops/plan_decode/test_schedule.py::test_ragged_requests"
SCHEDULE = "libflashmla/src/schedule/"
OTHER_BITS = "results differ in some bit"
OTHER_SCHEDULE = r"\nE +Arrays are not equal"


def one_piece(case: Case) -> Case:
    """No request is longer than a piece."""
    return case.but(lengths=tuple(min(n, 8 * 64) for n in case.lengths))


def of_schedule(name: str, before: str, after: str, case: Case, file: str, test: str = LEVEL) -> Fault:
    check = "ops.plan_decode.relations.check_host_schedule"
    return Fault(name, (Edit(SCHEDULE + file, before, after),), one_piece, test, OTHER_SCHEDULE, check, case)


FAULTS = [
    Fault(
        "size of a piece",  # depends on the batch
        (
            Edit(
                SCHEDULE + "tiling.c",
                "tiling->piece_units = limits.piece_units;",
                "tiling->piece_units = limits.piece_units + work->batch;",
            ),
        ),
        one_piece,
        ALONE,
        OTHER_BITS,
        "ops.dense_decode.relations.check_alone",
        INVARIANT,
    ),
    Fault(
        "slots of a part",  # those of the tile that it begins are those of the tile that it ends
        (
            Edit(
                SCHEDULE + "items.c", "schedule.first_slot[part + 1] - (int32_t)items};", "schedule.first_slot[part]};"
            ),
        ),
        one_piece,
        CHUNKS,
        "results differ in some bit|out|lse",
        "ops.dense_decode.relations.check_every_size",
        CHUNK.but(h_q=8),
    ),
    # Others have the same bits, and cost time or memory.
    of_schedule(
        "level",
        "slots <= pile->tiling->slots",
        "slots <= pile->tiling->slots / 4",
        LEVELS.but(lengths=(1 << 16,) * 2),
        "filling.c",
    ),
    of_schedule("budget of a part", "least + high * step", "least + (high + 1) * step", RAGGED, "filling.c", EVEN),
    of_schedule(
        "pieces for a cost",
        "(cost - small) / (of_small + tiling->piece_units)",
        "(cost - small) / of_small",
        RAGGED,
        "items.c",
        EVEN,
    ),
    of_schedule(
        "begin of a node", "item_shift[FM_LEVELS] = {0, 3, 30}", "item_shift[FM_LEVELS] = {0, 2, 30}", LEVELS, "items.c"
    ),
]
