"""Pieces so long that the CPU backend adds them up in stretches (STRETCH in cpu_piece.c)."""

import pytest

import backends
from isas import NAMES as ISAS
from ops.dense_decode import calls
from ops.dense_decode.case import Case
from ops.dense_decode.relations import FEW_TOKENS, MILLION, check_repeated

STRETCH = {"float32": 1024, "bfloat16": 9216}  # tokens


@pytest.fixture(params=ISAS)
def cpu(request, monkeypatch):
    monkeypatch.setenv("FLASHMLA_CPU_ISA", request.param)
    return backends.cpu()


def test_errors_do_not_grow_with_the_length(cpu):
    check_repeated(MILLION, cpu)
    check_repeated(FEW_TOKENS, cpu)
    check_repeated(MILLION.but(h_q=33, lengths=(1 << 18,)), cpu)  # steps with more keys


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("h_q", [3, 20])
def test_pieces_of_several_stretches_are_right(cpu, dtype, h_q):
    """The bounds of causal query tokens lie on both sides of the end of a stretch."""
    stretch = STRETCH[dtype]
    case = Case(
        dtype=dtype,
        s_q=3,
        h_q=h_q,
        num_blocks=40,
        max_blocks=2 * stretch // 64 + 1,
        lengths=(stretch, stretch + 1, stretch + 2, 2 * stretch + 1),
        causal=True,
        given=("lse",),
        plan="fresh",
        num_splits=1,
        seed=3,
    )
    calls.check(case, cpu)
