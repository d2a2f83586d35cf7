"""Which row of the kernel table is taken, where several do the same for different drivers."""

from __future__ import annotations

import subprocess

import pytest

import build
from stub_driver.stub import HERE

DENSE_DECODE, COMBINE, PLAN = range(3)
BF16, FP16, FP32 = range(3)
ANY_CLUSTER = 0


@pytest.fixture(scope="module")
def find(tmp_path_factory):
    made = tmp_path_factory.mktemp("find") / "find"
    flags = build.compile_flags(fault=0, sanitize=True, debug=False, kernels=True)
    sources = [HERE / "find.c", build.SOURCE / "cuda" / "kernels.c"]
    subprocess.run([build.compiler(), *flags, *sources, "-o", made, *build.LIBRARIES], check=True)

    def run(*numbers: int) -> str:
        return subprocess.run([made, *map(str, numbers)], check=True, capture_output=True, text=True).stdout.strip()

    return run


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ((DENSE_DECODE, BF16, 2, 13000), "bf16-13"),
        ((DENSE_DECODE, BF16, 2, 12090), "bf16-12"),
        ((DENSE_DECODE, BF16, 2, 12000), "bf16-12"),
        ((DENSE_DECODE, BF16, 2, 11080), "none"),
        ((DENSE_DECODE, FP16, 2, 13000), "fp16-12"),
        ((DENSE_DECODE, FP16, 1, 13000), "none"),
        ((DENSE_DECODE, BF16, 1, 13000), "bf16-small"),
        ((DENSE_DECODE, FP32, 2, 13000), "none"),
        ((PLAN, FP16, ANY_CLUSTER, 12000), "plan"),
        ((COMBINE, BF16, ANY_CLUSTER, 13000), "none"),
    ],
)
def test_the_first_row_that_does_it_and_that_the_driver_loads(find, numbers, name):
    assert find(*numbers) == name
