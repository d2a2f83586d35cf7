"""The library on AArch64, emulated: the C tests and a sample of the random calls.

An AArch64 machine runs the whole suite itself; this is for the others.
"""

import platform
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

import backends
import build
import c_abi
import ops.dense_decode.calls
import ops.merge_states.calls
from aarch64 import emulated
from buildtools.library import LINK_FLAGS
from c import test_c
from ops.dense_decode.strategies import cases
from ops.merge_states.strategies import merges
from properties import share, shown_if_it_fails

pytestmark = [
    pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine runs the suite itself"),
    pytest.mark.skipif(bool(emulated.missing()), reason=emulated.missing()),
]
# Not under the emulator: it has stacks and signals of its own and no traps, and a minute of test_decode is too long.
LEFT_OUT = {"test_decode", "test_stack", "test_signals", "test_decode_traps", "test_merge_traps"}
PROGRAMS = [
    (path, sources) for path, sources, kind in test_c.PROGRAMS if kind == "address" and path.stem not in LEFT_OUT
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The shared library and the runner."""
    folder = tmp_path_factory.mktemp("aarch64")
    objects = emulated.compile_objects(test_c.WHOLE, emulated.FLAGS)
    made = emulated.link(objects, folder / build.SONAME, *LINK_FLAGS, "-Wl,-z,defs")
    assert made.read_bytes()[18:20] == (183).to_bytes(2, "little")  # ELF: EM_AARCH64
    runner = emulated.link(emulated.compile_objects([emulated.HERE / "runner.c"], emulated.FLAGS), folder / "runner")
    arena = emulated.Arena(folder / "memory")
    running = emulated.Library(arena, runner, made)
    yield arena, running
    running.close()


@pytest.fixture(scope="module")
def backend(library):
    """The CPU backend of the emulated library, by the C ABI."""
    arena, running = library
    host = backends.cpu()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(c_abi, "lib", running)
        patch.setattr(c_abi, "ffi", emulated.Foreign(arena))
        yield backends.Backend("cpu", host.device, host.dtypes, host.page_sizes, {"numpy": emulated.Adapter(arena)})


@pytest.mark.parametrize(("path", "sources"), PROGRAMS, ids=[path.stem for path, _ in PROGRAMS])
def test_program(path, sources, tmp_path):
    test_c.write_stand_ins()
    flags = [*emulated.FLAGS, f"-I{test_c.HERE}"]
    objects = emulated.compile_objects([path, test_c.HERE / "fixture.c", *sources], flags)
    made = emulated.link(objects, tmp_path / path.stem)
    ran = subprocess.run(
        [*emulated.command(made), "without forks"], capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@share(1 / 10)
@given(data=st.data())
def test_any_legal_call_is_the_oracle(backend, data):
    backend.adapter("c").arena.used = 0
    case = data.draw(cases(backend, route="c"))
    with shown_if_it_fails(case):
        ops.dense_decode.calls.check(case, backend)


@share(1 / 10)
@given(data=st.data())
def test_any_parts_give_what_the_oracle_says(backend, data):
    backend.adapter("c").arena.used = 0
    case = data.draw(merges(backend, route="c"))
    with shown_if_it_fails(case):
        ops.merge_states.calls.check(case, backend)
