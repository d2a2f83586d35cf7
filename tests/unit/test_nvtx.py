"""FLASHMLA_NVTX=1: ranges of calls for a tool of NVTX, here one that the test compiles."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import build
import flashmla
import small

HERE = pathlib.Path(__file__).resolve().parent
SCRIPT = """
import sys, threading
sys.path[:0] = {path!r}
import flashmla, small
q, kv_cache, block_table, cache_seqlens = small.inputs()
def decode():
    plan = flashmla.plan_decode(q, kv_cache, block_table, cache_seqlens)
    flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens, plan=plan)
"""


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    made = tmp_path_factory.mktemp("nvtx") / "libtool.so"
    flags = ["-std=gnu11", "-shared", "-fPIC", "-Wall", "-Werror", "-pthread"]
    subprocess.run([build.compiler(), *flags, "-o", made, HERE / "nvtx_tool.c"], check=True)
    return made


@pytest.fixture
def run(tool, tmp_path):
    """What the tool was told by a program in a process of its own: lines in words; and what it says on stderr."""

    def run(code, **variables):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        given = {"FLASHMLA_NVTX": "1", "NVTX_INJECTION64_PATH": str(tool), "TOOL_LOG": str(log)} | variables
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLASHMLA_NVTX")} | given
        path = [str(pathlib.Path(flashmla.__file__).parents[1]), str(HERE), str(HERE.parent)]
        script = SCRIPT.format(path=path) + code
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split(" ", 4) for line in lines], done.stderr

    return run


def ranges(told):
    return [(thread, what, name) for thread, what, _, _, name in told if what in {"push", "pop"}]


def test_a_call_is_a_range_named_by_operation_and_shape(run):
    told, _ = run("decode()")
    assert [line[1:] for line in told[:2]] == [["start", "0", "-", "-"], ["create", "0", "flashmla", "-"]]
    assert [line[1] for line in told[2:]] == ["push", "pop", "push", "pop"]
    assert all(line[2:4] == ["0", "flashmla"] for line in told[2:])
    planned, decoded = (line[4] for line in told[2:] if line[1] == "push")
    q, kv_cache, _, _ = small.inputs()
    shape = dict(zip(("batch", "s_q", "h_q", "d_qk"), q.shape, strict=True))
    shape |= {"page_size": kv_cache.shape[1], "h_kv": 1}
    for name, operation, more in (planned, "plan_decode", {}), (decoded, "dense_decode", {"d_v": 512}):
        words = name.split()
        assert (words[0], words[-1]) == (operation, str(q.dtype))
        told_of = {axis: int(extent) for axis, extent in (word.split("=") for word in words[1:-1])}
        assert told_of == shape | more
    assert not set(decoded) & set(",/@[]"), "these have a meaning in filters of tools"


def test_ranges_lie_within_those_of_the_caller_on_each_thread(run):
    code = """
import ctypes, os
tool = ctypes.CDLL(os.environ["NVTX_INJECTION64_PATH"])
def work():
    for _ in range(50):
        decode()
        tool.open_range()
        decode()
        tool.close_range()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    told, _ = run(code)
    assert [line[1] for line in told].count("start") == 1, "threads that come at once start the tool once"
    numbers = {line[0] for line in told if line[1] == "push"}
    assert len(numbers) == 4

    def step(depth):
        return [(what, depth, name) for name in ("plan_decode", "dense_decode") for what in ("push", "pop")]

    once = [*step(0), ("push", 0, "own"), *step(1), ("pop", 0, "own")]
    for number in numbers:
        own = [
            (what, int(depth), name.split()[0])
            for of, what, depth, _, name in told
            if of == number and what in {"push", "pop"}
        ]
        assert own == [(what, depth, name if what == "push" else "-") for what, depth, name in once * 50]


def test_what_launches_nothing_has_no_range(run):
    code = """
flashmla.fail_next("dense_decode", 301)
try:
    decode()
except flashmla.DeviceError:
    pass
try:
    flashmla.dense_decode(q, kv_cache, block_table, cache_seqlens[:0])
except flashmla.InvalidArgumentError:
    pass
decode()
"""
    told, _ = run(code)
    pushed = [name.partition(" ")[0] for _, what, name in ranges(told) if what == "push"]
    assert pushed == ["plan_decode", "plan_decode", "dense_decode"]
    assert [what for _, what, _ in ranges(told)] == ["push", "pop"] * 3


def test_prepared_calls_and_profiles_beside(run):
    code = """
call = flashmla.prepare(flashmla.dense_decode, q, kv_cache, block_table, cache_seqlens)
with flashmla.profile() as report:
    call()
    decode()
assert len(report.records) == 3
"""
    told, _ = run(code)
    names = [name.partition(" ")[0] for _, what, name in ranges(told) if what == "push"]
    assert names == ["dense_decode", "plan_decode", "dense_decode"]


@pytest.mark.parametrize(
    "variables",
    [{"FLASHMLA_NVTX": "0"}, {"FLASHMLA_NVTX": ""}, {"NVTX_INJECTION64_PATH": ""}, {"FLASHMLA_NVTX": "2"}],
    ids=str,
)
def test_without_a_wish_or_a_tool_nothing_is_loaded(run, variables):
    told, said = run("decode(); print(flashmla.info()['environment_error'], file=sys.stderr)", **variables)
    assert told == []
    wrong = 'FLASHMLA_NVTX is "2"; it must be 0 or 1' if variables.get("FLASHMLA_NVTX") == "2" else None
    assert (wrong or "None") in said


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"NVTX_INJECTION64_PATH": "/none/such.so"}, "the tool cannot be loaded"),
        ({"NVTX_INJECTION64_PATH": "libm.so.6"}, "it is no tool of NVTX 3"),
        ({"TOOL_REFUSES": "1"}, "the tool does not start"),
        ({"TOOL_WANTS_NOTHING": "1"}, "the tool does not want ranges"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tool_that_does_not_work_is_left_alone_and_told_in_the_log(run, variables, reason):
    told, said = run("decode(); decode()", FLASHMLA_LOG="1", **variables)
    assert ranges(told) == []
    assert said.count(f"flashmla: no NVTX ranges: {reason} (NVTX_INJECTION64_PATH is ") == 1
    _, said = run("decode()", **variables)
    assert "NVTX" not in said


def test_a_tool_may_call_the_library(run):
    """While it starts, and in a range: such calls have no range, and wait for nothing."""
    code = """
import ctypes, faulthandler, os
faulthandler.dump_traceback_later(60, exit=True)
tool = ctypes.CDLL(os.environ["NVTX_INJECTION64_PATH"])
calls = []
@ctypes.CFUNCTYPE(None)
def call():
    calls.append(decode())
ctypes.c_void_p.in_dll(tool, "tool_calls").value = ctypes.cast(call, ctypes.c_void_p).value
decode()
assert len(calls) == 6, calls
"""
    told, _ = run(code)
    names = [line[1] for line in told]
    assert names == ["start", "create", "push", "pop", "push", "pop"]


def test_ranges_come_and_go_with_the_variable(run):
    code = """
import os
for value in "0", "1", "0", "1":
    os.environ["FLASHMLA_NVTX"] = value
    flashmla.read_environment()
    decode()
"""
    told, _ = run(code)
    assert [what for _, what, _ in ranges(told)] == ["push", "pop"] * 4


CHECKED = """
#include <nvtx3/nvToolsExt.h>
#include "observer/nvtx.h"
#define SAME(a, b) _Static_assert((a) == (b), #a)
#define PLACE(ours, theirs) SAME(offsetof(fm_nvtx_event, ours), offsetof(nvtxEventAttributes_t, theirs))
SAME(sizeof(fm_nvtx_event), sizeof(nvtxEventAttributes_t));
PLACE(version, version); PLACE(size, size); PLACE(color_type, colorType); PLACE(color, color);
PLACE(payload, payload); PLACE(message_type, messageType); PLACE(message, message); PLACE(category, category);
SAME((int)FM_NVTX_VERSION, NVTX_VERSION); SAME((int)FM_NVTX_COLOR_ARGB, (int)NVTX_COLOR_ARGB);
SAME((int)FM_NVTX_MESSAGE_ASCII, (int)NVTX_MESSAGE_TYPE_ASCII);
#define MODULE(name) SAME((int)FM_NVTX_##name, (int)NVTX_CB_MODULE_##name); \\
  SAME((int)FM_NVTX_##name##_PLACES, (int)NVTX_CBID_##name##_SIZE)
MODULE(CORE); MODULE(CUDA); MODULE(OPENCL); MODULE(CUDART); MODULE(CORE2); MODULE(SYNC);
SAME((int)FM_NVTX_MODULES, (int)NVTX_CB_MODULE_SIZE);
SAME((int)FM_NVTX_DOMAIN_RANGE_PUSH, (int)NVTX_CBID_CORE2_DomainRangePushEx);
SAME((int)FM_NVTX_DOMAIN_RANGE_POP, (int)NVTX_CBID_CORE2_DomainRangePop);
SAME((int)FM_NVTX_DOMAIN_CREATE, (int)NVTX_CBID_CORE2_DomainCreateA);
SAME((int)FM_NVTX_CALLBACKS, (int)NVTX_ETID_CALLBACKS); SAME((int)FM_NVTX_VERSION_INFO, (int)NVTX_ETID_VERSIONINFO);
SAME(sizeof(fm_nvtx_callbacks), sizeof(NvtxExportTableCallbacks));
SAME(sizeof(fm_nvtx_version_info), sizeof(NvtxExportTableVersionInfo));
int main(void) { return 0; }
"""


def test_the_facts_are_those_of_the_header_of_nvidia(tmp_path):
    folders = [pathlib.Path(p) / "include" for p in (os.environ.get("CUDA_HOME", "/usr/local/cuda"),)]
    folders += sorted(pathlib.Path("/usr/local").glob("cuda-*/include"))
    found = next((folder for folder in folders if (folder / "nvtx3" / "nvToolsExt.h").exists()), None)
    if found is None:
        pytest.skip("the CUDA toolkit is not installed")
    (tmp_path / "checked.c").write_text(CHECKED)
    flags = ["-std=gnu11", "-fsyntax-only", f"-isystem{found}", f"-I{build.SOURCE}"]
    subprocess.run([build.compiler(), *flags, tmp_path / "checked.c"], check=True)
