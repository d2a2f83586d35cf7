"""Which driver functions the library knows: those of CUDA 12.0, and none that allocates."""

from __future__ import annotations

import re
from pathlib import Path

import build
import flashmla
from stub_driver import stub

# memory of the device; pinned memory of the host is none
ALLOCATES = re.compile(
    rb"cu(da)?(Mem(?!cpy|set|HostAlloc)|Malloc|ArrayCreate|Array3DCreate|MipmappedArrayCreate|Vmm)\w*"
)
BLOCKS = re.compile(rb"cu(Ctx|Event)Synchronize")


def table() -> dict[str, bool]:
    """The library's table of driver symbols: name -> optional."""
    text = (build.SOURCE / "cuda" / "driver.h").read_text()
    required, _, optional = text.partition("#define FM_OPTIONAL_DRIVER_SYMBOLS")
    names = dict.fromkeys(re.findall(r"X\(\w+, (cu\w+),", required), False)
    return names | dict.fromkeys(re.findall(r"X\(\w+, (cu\w+),", optional.partition("typedef")[0]), True)


def test_every_required_function_is_in_cuda_12_0():
    assert {name for name, optional in table().items() if not optional} == set(stub.SINCE)
    assert all(tuple(map(int, since.split("."))) <= (12, 0) for since in stub.SINCE.values())


def test_every_newer_function_is_optional():
    assert {name for name, optional in table().items() if optional} == set(stub.OPTIONAL)
    assert all(tuple(map(int, since.split("."))) > (12, 0) for since in stub.OPTIONAL.values())


def test_no_function_of_the_table_allocates_or_waits_for_everything():
    for name in table():
        assert not ALLOCATES.match(name.encode()), name
        assert not BLOCKS.match(name.encode()), name


def test_the_library_holds_no_other_name_of_a_driver_function():
    """Read from its bytes: what is not in the table cannot be looked up."""
    binary = Path(flashmla.info()["library_path"]).read_bytes()
    for image in sorted(build.GENERATED.glob("*.cubin")):
        binary = binary.replace(image.read_bytes(), b"")
    names = {name.decode() for name in re.findall(rb"\0(cu[A-Z]\w+)(?=\0)", binary)}
    assert names == set(table())
    assert not ALLOCATES.search(binary)
    assert b"cudart" not in binary
