"""Faults of the host's schedule, each of which the suite must find."""

from ops.dense_decode.relations import INVARIANT
from planted_faults import Edit, Fault

ALONE = "tests/ops/dense_decode/test_batch_invariance.py::test_every_request_alone_and_among_many[cpu-bfloat16-16]"

FAULTS = [
    Fault(
        "size of a piece",  # batch invariant, it depends on the batch
        (
            Edit(
                "libflashmla/src/schedule/tiling.c",
                "work->batch_invariant ? limits.piece_units : 0;",
                "work->batch_invariant ? limits.piece_units + work->batch : 0;",
            ),
        ),
        # A request of 8 units of 64 tokens is one piece.
        lambda case: case.but(lengths=tuple(min(n, 8 * 64) for n in case.lengths)),
        ALONE,
        "results differ in some bit",
        "ops.dense_decode.relations.check_alone",
        INVARIANT,
    )
]
