"""What the GPU backend says when the driver, the device or the kernels are not there, and what it leaves behind."""

from __future__ import annotations

import pytest

import c_abi
from stub_driver import stub

NO_KERNELS, ARCHITECTURE, NO_DRIVER, DRIVER, DEVICE = (
    c_abi.constant(f"ERROR_{name}") for name in ("NO_KERNELS", "ARCHITECTURE", "NO_DRIVER", "DRIVER", "DEVICE")
)
# What a first dense_decode calls and may fail. The failure of cuInit has a sentence of its own.
BY_DECODE = sorted(
    set(stub.SINCE)
    - {"cuInit", "cuGetErrorString", "cuStreamSynchronize", "cuCtxGetDevice", "cuCtxPopCurrent_v2"}
    - {"cuTensorMapReplaceAddress"}
    - {"cuStreamIsCapturing", "cuMemHostAlloc"}  # the checking mode's
    - {name for name in stub.SINCE if name.startswith(("cuEvent", "cuMemcpy", "cuMemset", "cuPointer"))}  # pools'
    - {"cuStreamCreate", "cuStreamDestroy_v2", "cuStreamWaitEvent"}
    - {"cuThreadExchangeStreamCaptureMode"}  # the profiler's, with events
    - {"cuDeviceGetName"}  # that of calls with a tuning file
)


@pytest.mark.parametrize(("architecture", "name"), [(80, "sm_80"), (89, "sm_89"), (100, "sm_100"), (120, "sm_120")])
def test_another_architecture_is_named(cuda_12_0, architecture, name):
    ran = cuda_12_0.run("decode(); plan(); decode(); merge()", architecture=architecture)
    for status, sentence, depth, *_ in ran.told:
        assert (status, depth) == (ARCHITECTURE, 0)
        assert sentence == (f"CUDA device 0 is of architecture {name}; this library has kernels for sm_90a only")
    assert not ran.of("cuLibraryLoadData", "cuLaunchKernelEx", "cuCtxPushCurrent_v2")


@pytest.mark.parametrize("symbol", sorted(stub.SINCE))
def test_a_missing_symbol_is_named(compile_stub, symbol):
    ran = compile_stub(set(stub.SINCE) - {symbol}).run("decode(); decode()")
    for status, sentence, *_ in ran.told:
        assert status == NO_DRIVER
        assert sentence == f"the CUDA driver lacks {symbol}; version 12.0 or newer is needed"


def test_a_driver_that_does_not_start_is_quoted(cuda_12_0):
    ran = cuda_12_0.run("decode(); decode()", devices=0)
    for status, sentence, *_ in ran.told:
        assert status == NO_DRIVER
        assert sentence == "the CUDA driver does not start: the driver's words for 100 (100)"


def test_a_driver_that_starts_later_is_used(cuda_12_0):
    ran = cuda_12_0.run("fail('cuInit', 3); decode(); decode()")
    assert [line[0] for line in ran.told] == [NO_DRIVER, 0]


def test_a_device_that_is_not_there(cuda_12_0):
    ran = cuda_12_0.run("decode(device=1); plan(device=64); decode()", devices=1)
    assert [line[0] for line in ran.told] == [DEVICE, DEVICE, 0]
    rule = "the driver has 1 CUDA devices; it must be in [0, 1)"
    assert [line[1] for line in ran.told[:2]] == [f"q.device.device_id is {n}, {rule}" for n in (1, 64)]


def test_a_device_beyond_the_librarys_limit(cuda_12_0):
    ran = cuda_12_0.run("decode(device=64)", devices=100)
    sentence = "q.device.device_id is 64, the driver has 100 CUDA devices; it must be in [0, 64)"
    assert ran.told[0][:2] == [DEVICE, sentence]


@pytest.mark.parametrize("device", [-1, 1, 64])
def test_synchronising_a_device_that_is_not_there(cuda_12_0, device):
    ran = cuda_12_0.run(f"tell(lib.flashmla_stream_synchronize({device}, ffi.NULL), last_error())", devices=1)
    assert ran.told == [[DEVICE, f"device_id is {device}, the driver has 1 CUDA devices; it must be in [0, 1)"]]


@pytest.mark.parametrize(
    ("operation", "symbol"),
    [("decode", symbol) for symbol in BY_DECODE]
    + [("plan", symbol) for symbol in BY_DECODE if "TensorMap" not in symbol],
)
def test_a_driver_call_that_fails_is_quoted_and_leaves_no_context(cuda_12_0, operation, symbol):
    """And the next call is right: nothing half done is kept."""
    ran = cuda_12_0.run(f"fail('{symbol}', 999); {operation}(); decode(); decode()")
    status, sentence, depth, *_ = ran.told[0]
    assert status == DRIVER
    assert sentence.startswith("CUDA driver: ")
    assert sentence.endswith(": the driver's words for 999 (999)")
    assert depth == 0
    assert [line[:3] for line in ran.told[1:]] == [[0, "", 0]] * 2
    loads = [call["image"] for call in ran.of("cuLibraryLoadData") if call["result"] == 0]
    assert len(loads) == len(set(loads)) == 3
    if symbol != "cuLaunchKernelEx":
        before = ran.names()[: [call["result"] for call in ran.calls].index(999)]
        assert "cuLaunchKernelEx" not in before


@pytest.mark.parametrize("symbol", ["cuCtxGetDevice", "cuLaunchKernelEx", "cuTensorMapEncodeTiled"])
def test_a_failure_keeps_the_callers_context(cuda_12_0, symbol):
    ran = cuda_12_0.run(f"enter(1); fail('{symbol}'); decode(); decode()", devices=2)
    assert [(line[0], line[2]) for line in ran.told] == [(DRIVER, 1), (0, 1)]


@pytest.mark.parametrize("call", ["decode()", "decode(plan=made)"])
def test_a_launch_may_fail_after_others_went_well(cuda_12_0, call):
    """Of the scheduler, or of dense_decode: a status, the driver's words and no context."""
    ran = cuda_12_0.run(f"made = plan(); decode(plan=made); fail('cuLaunchKernelEx', 2); {call}")
    status, sentence, depth, kernel = ran.told[-1]
    assert (status, depth) == (DRIVER, 0)
    assert "launch_kernel_ex" in sentence
    assert kernel == "dense_decode_bf16_576_cluster2", "of the last operation that succeeded"


@pytest.mark.parametrize("symbol", ["cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelSetAttribute"])
@pytest.mark.parametrize("loaded", [0, 1, 2])
def test_nothing_is_launched_before_every_kernel_is_loaded(cuda_12_0, symbol, loaded):
    """Whichever of the three kernels cannot be loaded."""
    ran = cuda_12_0.run(f"fail('{symbol}', 2, after={loaded}); decode()")
    assert ran.told[0][0] == DRIVER
    assert len(ran.of(symbol)) == loaded + 1
    assert ran.launches() == []


@pytest.mark.parametrize("encoded", [0, 1])
def test_nothing_is_launched_before_every_tensor_map_is_encoded(cuda_12_0, encoded):
    ran = cuda_12_0.run(f"fail('cuTensorMapEncodeTiled', 2, after={encoded}); decode()")
    assert ran.told[0][0] == DRIVER
    assert ran.launches() == []


@pytest.mark.parametrize("launched", [0, 1, 2])
def test_the_kernel_is_named_after_the_last_launch_alone(cuda_12_0, launched):
    ran = cuda_12_0.run(f"fail('cuLaunchKernelEx', 2, after={launched}); decode()")
    assert [ran.told[0][0], ran.told[0][3]] == [DRIVER, ""]
    assert len(ran.launches()) == launched + 1


@pytest.mark.parametrize("version", [11080, 11040])
def test_a_driver_older_than_every_kernel(cuda_12_0, version):
    ran = cuda_12_0.run("decode()", version=version)
    status, sentence, depth, _ = ran.told[0]
    assert (status, depth) == (c_abi.constant("ERROR_UNSUPPORTED"), 0)
    assert str(version) in sentence


def test_a_library_without_kernels_says_so(compile_stub, cpu_only_library):
    driver = compile_stub(stub.SINCE)
    ran = driver.run("decode(); plan(); merge()", flashmla_library=cpu_only_library)
    assert len(ran.told) == 3
    for status, sentence, *_ in ran.told:
        assert status == NO_KERNELS
        assert sentence.startswith("the tensors are on a CUDA device, but this library was built without GPU kernels")
    assert ran.calls == [], "and it does not touch the driver"


def test_synchronising_quotes_the_driver(cuda_12_0):
    twice = "for _ in 1, 2: tell(lib.flashmla_stream_synchronize(0, ffi.NULL), last_error())"
    ran = cuda_12_0.run(f"fail('cuStreamSynchronize', 700)\n{twice}")
    assert [line[0] for line in ran.told] == [c_abi.constant("ERROR_CONTEXT_LOST"), 0]
    assert "the driver's words for 700" in ran.told[0][1]


@pytest.mark.parametrize("version", [12000, 13020])
def test_the_driver_version_is_told(cuda_12_0, version):
    code = "found = ffi.new('int32_t *'); tell(lib.flashmla_driver_version(found), found[0])"
    assert cuda_12_0.run(code, version=version).told == [[0, version]]


@pytest.mark.parametrize("code", [214, 700, 702, 710, 716, 719])
def test_an_error_that_ends_the_context_is_told_as_that(cuda_12_0, code):
    status, sentence, *_ = cuda_12_0.run(f"fail('cuLaunchKernelEx', {code}); decode()").told[0]
    assert status == c_abi.constant("ERROR_CONTEXT_LOST")
    assert f"the driver's words for {code} ({code}): the CUDA context is lost" in sentence
    assert sentence.endswith("the process has to be started again"), "the longest sentence is not cut off"


@pytest.mark.parametrize("code", [1, 2, 400, 701, 801, 999])
def test_other_errors_of_the_driver_leave_the_context(cuda_12_0, code):
    status, sentence, *_ = cuda_12_0.run(f"fail('cuLaunchKernelEx', {code}); decode()").told[0]
    assert status == DRIVER
    assert "context is lost" not in sentence
