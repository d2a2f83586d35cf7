"""What a decode step costs in the books of pools of every size: a token a sequence, a page for every 64th, arrays."""

import statistics

import pytest

pytest.importorskip("torch")
from benchmarks import pool_steps


@pytest.mark.parametrize(("sequences", "blocks", "most"), pool_steps.CASES)
def test_a_step_takes_no_longer_than_it_may(sequences, blocks, most, figure):
    """The figure is a fifth of that or less, so that a machine that does something else is no failure."""
    us = statistics.median(pool_steps.timed(sequences, blocks, "cpu", 100))
    figure(f"bookkeeping of a step, {sequences} sequences, {blocks} blocks", f"{us:.1f} us")
    assert us <= most


@pytest.mark.parametrize(("sequences", "blocks", "most"), pool_steps.CASES)
def test_nor_on_a_gpu_whose_uploads_it_issues(gpu, sequences, blocks, most, figure):  # noqa: ARG001 - which may skip
    us = statistics.median(pool_steps.timed(sequences, blocks, "cuda", 100))
    figure(f"bookkeeping of a step on a GPU, {sequences} sequences, {blocks} blocks", f"{us:.1f} us")
    assert us <= most
