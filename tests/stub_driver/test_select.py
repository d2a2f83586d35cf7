"""Which row of the kernel table is taken: by what the call is, by the driver, and by FLASHMLA_FORCE_KERNEL."""

from __future__ import annotations

import os
import subprocess

import pytest

import build
import c_abi
from dsl_kernels.variants import FAMILIES
from stub_driver.stub import HERE

FAMILY = {name: number for number, name in enumerate(FAMILIES)}  # as kernel_params.h numbers them
DENSE_DECODE, COMBINE, PLAN = (FAMILY[name] for name in ("dense_decode", "combine", "plan"))
BF16, FP16, FP32 = range(3)
PAGES_OF_64, ANY_PAGE, GATHERS = 0, 1, 2  # features
ANY_CLUSTER = 0
KV_BF16, KV_V32, KV_MODEL1 = (c_abi.constant(f"KV_{name}") for name in ("BF16", "V32", "MODEL1"))
UNSUPPORTED = c_abi.constant("ERROR_UNSUPPORTED")


@pytest.fixture(scope="module")
def select(tmp_path_factory):
    made = tmp_path_factory.mktemp("select") / "select"
    flags = build.compile_flags(sanitize=True, debug=False, kernels=True)
    parts = ["cuda/select.c", "core/environment.c", "core/texts.c", "core/dtype.c", "core/log.c", "formats/formats.c"]
    sources = [HERE / "select.c", *(build.SOURCE / part for part in parts)]
    subprocess.run([build.compiler(), *flags, *sources, "-o", made, *build.LIBRARIES], check=True)

    def run(
        *numbers: int, arch: int = 90, kv_format: int = KV_BF16, preferred: int = 0, forced: str | None = None
    ) -> str:
        environment = {name: text for name, text in os.environ.items() if name != "FLASHMLA_FORCE_KERNEL"}
        if forced is not None:
            environment["FLASHMLA_FORCE_KERNEL"] = forced
        command = [made, *map(str, numbers), str(arch), str(kv_format), str(preferred)]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    return run


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ((DENSE_DECODE, BF16, 576, PAGES_OF_64, 2, 13000), "bf16-13"),
        ((DENSE_DECODE, BF16, 576, PAGES_OF_64, 2, 12090), "bf16-12"),
        ((DENSE_DECODE, BF16, 576, PAGES_OF_64, 2, 12000), "bf16-12"),
        ((DENSE_DECODE, FP16, 576, PAGES_OF_64, 2, 13000), "fp16-12"),
        ((DENSE_DECODE, BF16, 576, PAGES_OF_64, 1, 13000), "bf16-1"),
        ((DENSE_DECODE, BF16, 576, ANY_PAGE, 2, 13000), "bf16-pages"),
        ((DENSE_DECODE, BF16, 512, PAGES_OF_64, 2, 13000), "bf16-512"),
        ((PLAN, FP16, 320, PAGES_OF_64, ANY_CLUSTER, 12000), "plan"),
        ((COMBINE, BF16, 512, PAGES_OF_64, ANY_CLUSTER, 12000), "combine"),
    ],
)
def test_the_first_row_that_does_it_and_that_the_driver_loads(select, numbers, name):
    assert select(*numbers) == name


@pytest.mark.parametrize(
    "numbers",
    [
        (DENSE_DECODE, BF16, 576, PAGES_OF_64, 2, 11080),
        (DENSE_DECODE, FP16, 576, PAGES_OF_64, 1, 13000),
        (DENSE_DECODE, FP16, 576, ANY_PAGE, 2, 13000),
        (DENSE_DECODE, FP16, 512, PAGES_OF_64, 2, 13000),
        (DENSE_DECODE, FP32, 576, PAGES_OF_64, 2, 13000),
        (COMBINE, FP16, 576, PAGES_OF_64, ANY_CLUSTER, 13000),
    ],
)
def test_no_row_does_it(select, numbers):
    family = {DENSE_DECODE: "dense_decode", COMBINE: "combine"}[numbers[0]]
    wanted = f"{UNSUPPORTED}: no {family} kernel of this library fits the call on driver version {numbers[-1]}"
    assert select(*numbers) == wanted


@pytest.mark.parametrize("name", ["bf16-12", "bf16-pages"])
def test_the_forced_row_is_taken_and_others_are_not_forced(select, name):
    assert select(DENSE_DECODE, BF16, 576, PAGES_OF_64, 2, 13000, forced=name) == name
    assert select(PLAN, BF16, 576, PAGES_OF_64, ANY_CLUSTER, 13000, forced=name) == "plan"


def test_what_is_preferred_is_taken_unless_another_row_is_forced(select):
    asked = (DENSE_DECODE, BF16, 576, ANY_PAGE, 2, 13000)
    assert select(*asked) == "bf16-pages"
    assert select(*asked, preferred=GATHERS) == "bf16-gather"
    assert select(*asked, preferred=GATHERS, forced="bf16-pages") == "bf16-pages"
    assert select(*asked, forced="bf16-gather") == "bf16-gather"
    assert select(DENSE_DECODE, BF16, 512, ANY_PAGE, 2, 13000, preferred=GATHERS) == "bf16-512", "none has it"


def test_an_empty_name_forces_nothing(select):
    assert select(DENSE_DECODE, BF16, 576, PAGES_OF_64, 2, 13000, forced="") == "bf16-13"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fp16-12", "another dtype"),
        ("bf16-512", "other head dimensions"),
        ("bf16-1", "other tiles of query rows"),
        ("bf16-13", "a newer driver"),
    ],
)
def test_a_forced_row_that_does_not_fit_is_refused(select, name, why):
    found = select(DENSE_DECODE, BF16, 576, PAGES_OF_64, 2, 12000, forced=name)
    assert found == f'{UNSUPPORTED}: FLASHMLA_FORCE_KERNEL is "{name}", which does not fit the call: it is for {why}'


def test_a_forced_row_may_be_for_other_pages_or_more_rows(select):
    assert select(DENSE_DECODE, BF16, 576, ANY_PAGE, 2, 13000, forced="bf16-12").endswith(
        "it is for pages of 64 tokens"
    )
    assert select(DENSE_DECODE, BF16, 576, PAGES_OF_64, 1, 13000, forced="bf16-12").endswith(
        "more than 64 query rows a KV head"
    )


def test_a_row_for_another_architecture_is_not_taken(select):
    asked = (DENSE_DECODE, BF16, 576, PAGES_OF_64, 2, 13000)
    refusal = f"{UNSUPPORTED}: no dense_decode kernel of this library fits the call on driver version 13000"
    assert select(*asked, arch=100) == refusal
    assert select(*asked, arch=100, forced="bf16-13").endswith("it is for another architecture")


def test_a_row_is_for_one_format_of_the_cache(select):
    asked = (DENSE_DECODE, BF16, 576, PAGES_OF_64, 2, 13000)
    assert select(*asked, kv_format=KV_V32) == "bf16-v32"
    none = select(*asked, kv_format=KV_MODEL1)
    assert none.startswith(f"{UNSUPPORTED}: ")
    assert none.endswith("no dense_decode kernel of this library reads it, the CPU does")
    assert select(*asked, forced="bf16-v32").endswith("it is for another format of the cache")


@pytest.mark.parametrize("name", ["plan", "bf16", "nothing"])
def test_only_a_dense_decode_row_can_be_forced(select, name):
    sentence = f'{UNSUPPORTED}: FLASHMLA_FORCE_KERNEL is "{name}", which is no dense_decode kernel of this library'
    assert select(DENSE_DECODE, BF16, 576, PAGES_OF_64, 2, 13000, forced=name) == sentence
