"""Merges whose rows, parts or columns are so many that a 32-bit number of them, or of their bytes, is another one.

What is joined is one part, or one that is not empty, so that the result must be its bits; -1 is what a row that was not
written holds. Skipped where the GPU has not the memory.
"""

from __future__ import annotations

import os

import pytest

import flashmla

torch = pytest.importorskip("torch")

GIGABYTE = 2**30
MOST = 2**31 - 1  # of an extent, and of the rows of a merge
PIECE = 2**26 - 1  # elements that a helper looks at at once


@pytest.fixture
def room(gpu):  # noqa: ARG001 - which may skip
    """Skips where so many bytes are not free."""

    def check(needed: int) -> None:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        if free < needed + GIGABYTE:
            pytest.skip(f"{free / GIGABYTE:.1f} GB of GPU memory are free, {needed / GIGABYTE + 1:.1f} are needed")

    yield check
    torch.cuda.empty_cache()


def numbered(*shape: int) -> torch.Tensor:
    """bfloat16 numbers that differ from neighbour to neighbour, made without a copy of another type."""
    bits = torch.empty(shape, dtype=torch.int16, device="cuda")
    for part in bits.view(-1).split(PIECE):
        part.copy_(torch.arange(part.numel(), device="cuda") % 127 + 0x3F80)  # 1.0 and the 126 numbers above it
    return bits.view(torch.bfloat16)


def same_bits(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """In pieces, since a comparison makes a mask."""
    pieces = (x.view(torch.int16).view(-1).split(PIECE) for x in (found, wanted))
    return all(torch.equal(one, other) for one, other in zip(*pieces, strict=True))


@pytest.mark.parametrize("rows", [MOST, MOST - 2000])
def test_as_many_rows_as_are_legal(room, rows):
    """With the step that a warp takes they pass 2^31."""
    room(rows * (2 * 16 + 3 * 4))
    out, lse = numbered(1, rows, 1, 8), torch.zeros(1, 1, rows, device="cuda")
    result, result_lse = torch.full_like(out, -1), torch.full_like(lse, -1)
    flashmla.merge_states(out[None], lse[None], out=result, lse=result_lse)
    assert same_bits(result, out)
    assert not result_lse.any()


@pytest.mark.parametrize("s_q", [2**20, 2**20 - 1])
def test_rows_of_several_axes(room, s_q):
    shape = (2, s_q, 1023)
    rows = shape[0] * shape[1] * shape[2]
    assert 2**31 - 3 * 2**20 < rows < 2**31
    room(rows * (2 * 16 + 3 * 4))
    out, lse = numbered(*shape, 8), torch.zeros(shape[0], shape[2], shape[1], device="cuda")
    result, result_lse = torch.full_like(out, -1), torch.full_like(lse, -1)
    flashmla.merge_states(out[None], lse[None], out=result, lse=result_lse)
    assert same_bits(result, out)
    assert not result_lse.any()


@pytest.mark.parametrize("d_v", [2**28 + 8, 2**30 + 8, 2**31 - 8])
def test_rows_of_more_than_2_to_the_31_bytes(room, d_v):
    room(2 * 2 * d_v)
    out, lse = numbered(1, 1, 1, d_v), torch.zeros(1, 1, 1, device="cuda")
    result = torch.full_like(out, -1)
    flashmla.merge_states(out[None], lse[None], out=result)
    assert same_bits(result, out)


@pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="takes minutes: profile nightly")
def test_as_many_parts_as_are_legal(room):
    """All but the first and the last are empty; one warp looks at each of them."""
    room(MOST * (16 + 4))
    lses = torch.full((MOST, 1, 1, 1), torch.inf, device="cuda")
    outs = torch.empty(MOST, 1, 1, 1, 8, dtype=torch.bfloat16, device="cuda")
    outs[0], outs[-1], lses[0], lses[-1] = 1, 3, 0, 0
    out, lse = flashmla.merge_states(outs, lses)
    assert torch.equal(out, torch.full_like(out, 2))
    assert abs(float(lse) - 0.6931472) < 1e-5
