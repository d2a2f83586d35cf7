"""C tests with edited copies of the library's sources: faults that they must find, and conditions for them."""

import subprocess

import pytest

import build
from c import test_c
from planted_faults import Edit, edited_copies

CPU = "libflashmla/src/cpu/"
WORKERS = CPU + "workers.c"
CALLING_THREAD = "libflashmla/src/core/calling_thread.c"
STEP = '#include "cpu/step_template.h"\n'

# The library computes in the floating-point mode of the caller, and a worker in that of the one that started it.
AS_THE_CALLER = (
    Edit(CALLING_THREAD, "  before.float_mode = fm_set_float_mode(false);\n", ""),
    Edit(CALLING_THREAD, "  fm_restore_float_mode(before.float_mode);\n", ""),
    Edit(WORKERS, "  fm_set_float_mode(true);\n", ""),
    Edit(WORKERS, "  const fm_float_mode before = fm_set_float_mode(true);\n", ""),
    Edit(WORKERS, "  fm_restore_float_mode(before);\n", ""),
)


def in_the_step(before: str, after: str, sets=("portable", "avx2", "avx512")) -> tuple[Edit, ...]:
    """An edit of a header that stands in the source of each instruction set."""
    text = (build.ROOT / CPU / "step_template.h").read_text()
    edited = Edit("step_template.h", before, after).applied(text)
    return tuple(Edit(f"{CPU}kernels_{isa}.c", STEP, edited) for isa in sets)


# name -> (edits, program that must fail, its arguments)
FAULTS = {
    "workers block the signals of their faults": (
        (Edit(WORKERS, "i++) sigdelset(&mask, own[i]);", "i++) sigaddset(&mask, own[i]);"),),
        "signals",
        [],
    ),
    "a caller is cancelled amid its call": (
        (Edit(CALLING_THREAD, "  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before.cancel_state);\n", ""),
         Edit(CALLING_THREAD, "  pthread_setcancelstate(before.cancel_state, NULL);\n", "")),
        "threads",
        [],
    ),
    "workers compute in the mode of the caller": (AS_THE_CALLER, "workers", []),
    "a call computes in the mode of the caller": (AS_THE_CALLER, "decode_traps", []),
    "a merge computes in the mode of the caller": (AS_THE_CALLER, "merge_traps", []),
    "the caller's mode is lost": (
        (Edit(WORKERS, "  fm_restore_float_mode(before);\n", "  (void)before;\n"),), "workers", []),
    "padding of weights is not written": (
        (*AS_THE_CALLER, *in_the_step("  if (!few_rows(rows)) return;", "  if (rows > 0) return;")),
        "decode_traps",
        ["finite"],
    ),
    "padding of queries is not written": (
        (*AS_THE_CALLER,
         *in_the_step("  memset(b.queries, 0, sizeof(float) * KEY_STRIDE * (size_t)padded_rows(rows));\n", "")),
        "decode_traps",
        ["finite"],
    ),
    "padding of keys is not written": (
        (*AS_THE_CALLER,
         *in_the_step(
             "  memset(b->keys + tokens * KEY_STRIDE, 0, sizeof(float) * KEY_STRIDE * (size_t)(padded - tokens));\n",
             "  (void)padded;\n")),
        "decode_traps",
        ["finite"],
    ),
}  # fmt: skip


def run(name: str, edits: tuple[Edit, ...], kind: str, folder, arguments: list[str]) -> subprocess.CompletedProcess:
    """The C test `name` with the edited library."""
    (path,) = [path for path in test_c.programs("library") if path.stem == f"test_{name}"]
    copies = edited_copies(edits, build.BUILD / "edited" / build.digest(*map(repr, edits))[:12])
    made = folder / path.stem
    test_c.compile_program(path, [copies.get(source, source) for source in test_c.WHOLE], kind, made)
    return subprocess.run([made, *arguments], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(name, tmp_path):
    edits, program, arguments = FAULTS[name]
    assert run(program, edits, "release", tmp_path, arguments).returncode != 0


@pytest.mark.parametrize("program", ["decode_traps", "merge_traps"])
def test_nothing_traps_on_what_the_caller_did_not_give(program, tmp_path):
    ran = run(program, AS_THE_CALLER, "release", tmp_path, ["finite"])
    assert ran.returncode == 0, f"{ran.returncode}\n{ran.stdout}{ran.stderr}"
