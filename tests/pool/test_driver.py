"""A pool and the CUDA driver: what it calls, what it says where the driver fails, and what it leaves behind."""

from __future__ import annotations

import pytest

import c_abi
from pool.device_array import STREAM
from stub_driver.launches import decoded

DRIVER, DEVICE, VALUE, BUSY = (
    c_abi.constant(f"ERROR_{name}") for name in ("DRIVER", "DEVICE", "VALUE", "STAGING_BUSY")
)
# A pool with a sequence of two blocks that was forked, and functions that tell how a call went.
BEGIN = """
import numpy, flashmla
from pool.device_array import DeviceArray

def make(device=0, **more):
    pages = DeviceArray(numpy.zeros((8, 4, 1, 8), "float32"))
    host = numpy.zeros((8, 4 * 8 * 4), "uint8")
    return flashmla.PagedKVCache([pages], max_seqs=4, max_seq_len=16, **{"host_pool": host} | more)

def tried(call):
    try:
        call()
        tell(0, "", driver.stub_depth())
    except flashmla.FlashMLAError as error:
        tell(error.status, str(error), driver.stub_depth())

def ready():
    global cache, one, other, out
    cache = make()
    one, out = cache.allocate()[0], cache.allocate()[0]
    cache.append([one, out], [6, 6])
    other = cache.fork(one)
    cache.swap_out(out)
"""
MAKES = ["cuStreamIsCapturing", "cuMemsetD32Async", "cuEventCreate", "cuStreamCreate", "cuCtxGetCurrent"]
WITH_KERNELS = ["cuPointerGetAttribute", "cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelSetAttribute"]
CALLS = {
    "cache.append([other])": ["cuMemcpyAsync", "cuStreamIsCapturing", "cuCtxPushCurrent_v2"],
    "cache.swap_out(one)": ["cuEventRecord", "cuStreamWaitEvent", "cuMemcpyAsync"],
    "cache.swap_in(out)": ["cuEventRecord", "cuStreamWaitEvent", "cuMemcpyAsync"],
    "(cache.swap_in(out), cache.append([out], [0]))": ["cuEventRecord"],
    "cache.update()": ["cuEventRecord"],
}
UPLOAD = "flashmla_upload_kernel_"


@pytest.mark.parametrize("symbol", [*MAKES, *WITH_KERNELS])
def test_a_pool_that_cannot_be_made(driver, symbol, request):
    if symbol in WITH_KERNELS:
        request.getfixturevalue("gpu_kernels")  # which may skip
    ran = driver.run(f"{BEGIN}\nfail('{symbol}', 999); tried(make); tried(make)")
    (status, sentence, depth), after = ran.told
    assert (status, depth) == (DRIVER, 0)
    assert sentence.endswith(": the driver's words for 999 (999)")
    assert after == [0, "", 0]
    for made, ended in [("cuEventCreate", "cuEventDestroy_v2"), ("cuStreamCreate", "cuStreamDestroy_v2")]:
        assert len([call for call in ran.of(made) if call["result"] == 0]) == len(ran.of(ended))


@pytest.mark.parametrize(("call", "symbol"), [(call, symbol) for call, symbols in CALLS.items() for symbol in symbols])
def test_a_call_that_fails_leaves_no_context_and_may_be_made_again(driver, call, symbol):
    ran = driver.run(f"{BEGIN}\nready(); fail('{symbol}', 999); tried(lambda: {call}); tried(lambda: {call})")
    (status, sentence, depth), after = ran.told
    assert (status, depth) == (DRIVER, 0)
    assert sentence.endswith(": the driver's words for 999 (999)")
    assert after == [0, "", 0]


@pytest.mark.parametrize("times", [1, 2])
def test_an_upload_that_fails_is_gone_on_with(driver, uploads, times):
    """By an update that has nothing of its own, and by that of a step, which changes the same."""
    symbol = "cuMemcpyAsync" if uploads["pageable"] else "cuLaunchKernelEx"
    code = f"""
def fails(length):
    cache.truncate(one, length)
    for _ in range({times}):
        fail("{symbol}", 999)
        tried(cache.update)

def look():
    driver.stub_finish()
    lengths, table = cache.cache_seqlens.array, cache.block_table.array[cache.row(one)]
    tell(sorted(lengths.tolist()), table[:2].tolist() == cache.blocks(one), cache.slot_mapping.array[:4].tolist())

ready()
fails(5)
cache.update()
look()
fails(2)
cache.append([one], [3])
look()
"""
    ran = driver.run(BEGIN + code, lazy=3, **uploads)
    (before, after), failures = [found for found in ran.told if isinstance(found[0], list)], ran.told
    assert [found[0] for found in failures if found not in (before, after)] == [DRIVER] * 2 * times
    assert before[:2] == [[0, 0, 5, 6], True]
    assert after == [[0, 0, 5, 6], True, [18, 19, 20, -1]]  # in blocks 4 and 5


def test_a_buffer_whose_event_was_not_recorded_is_not_taken_for_free(driver, uploads):
    """What was enqueued may not have been read yet: the next update records the event first."""
    code = """
ready()
cache.truncate(one, 5)
driver.stub_finish()
fail("cuEventRecord", 999)
tried(cache.update)
tried(cache.update)
"""
    ran = driver.run(BEGIN + code, **uploads)
    assert [status for status, *_ in ran.told] == [DRIVER, 0]
    results = [call["result"] for call in ran.of("cuEventRecord")]
    assert results[results.index(999) + 1 :] == [0]


def test_a_captured_stream_is_refused(driver):
    code = "import os\nready(); os.putenv('STUB_CAPTURING', '1')\n"  # which the stub reads as C does
    calls = ["cache.append([other])", "cache.swap_out(one)", "cache.swap_in(out)", "cache.update()", "make()"]
    code += "empty = cache.allocate()[0]\nbefore = cache.to_bytes()\n"
    calls.append("cache.append([empty], [3])")  # which copies nothing
    code += "\n".join(f"tried(lambda: {call})" for call in calls)
    ran = driver.run(f"{BEGIN}{code}\ntell(cache.to_bytes() == before)")
    assert ran.told.pop() == [True], "nothing has changed"
    for status, sentence, depth in ran.told:
        assert (status, depth) == (VALUE, 0)
        assert (
            sentence == "stream is captured, and the graph would repeat the pool's copies; call this before each replay"
        )


def test_a_device_that_is_not_there(driver):
    code = "from flashmla import _frameworks, _tensor\nDeviceArray.number = 1\n"
    ran = driver.run(f"{BEGIN}\n{code}\ntried(make)", devices=1)
    rule = "the driver has 1 CUDA devices; it must be in [0, 1)"
    assert ran.told == [[DEVICE, f"kv_cache.device.device_id is 1, {rule}", 0]]


def test_full_staging_is_told_and_python_waits(driver, uploads):
    """In C the upload is refused; PagedKVCache waits for the stream."""
    code = """
ready()
for _ in range(10):
    cache.append([one])
    cache.truncate(one, 6)
from flashmla._library import ffi, lib
stream = ffi.cast("void *", 7)
total = ffi.new("int64_t *")
statuses = []
for _ in range(6):
    names = ffi.new("flashmla_sequence[]", [one])
    assert lib.flashmla_pool_append(cache._pool, names, ffi.NULL, 1, stream, total) == 0
    statuses.append(lib.flashmla_pool_update(cache._pool, stream))
tell(statuses, ffi.string(lib.flashmla_last_error()).decode())
"""
    ran = driver.run(BEGIN + code, lazy=2, **uploads)
    statuses, sentence = ran.told[-1]
    assert statuses[-1] == BUSY
    assert sentence == "staging holds 4 uploads that the device has not done yet; wait for the stream and call again"
    assert len(ran.of("cuStreamSynchronize")) >= 2


def test_more_rows_than_all_of_staging_holds_are_uploaded(driver, uploads):
    """Rows of many sequences at once, as a state has them; the stream is waited for as often as it takes."""
    code = """
def make():
    pages = DeviceArray(numpy.zeros((1024, 4, 1, 8), "float32"))
    return flashmla.PagedKVCache([pages], max_seqs=64, max_seq_len=256, max_slots=64)

def rows(cache):
    driver.stub_finish()
    return [cache.block_table.array[cache.row(seq)].tolist() for seq in seqs]

before = make()
first = before.allocate()[0]
for _ in range(4):
    before.append([first], [64])
seqs = [first, *(before.fork(first) for _ in range(63))]
before.update()
after = make()
after.load(before.to_bytes())
tell(rows(before) == rows(after) == [before.blocks(first)] * 64, len(before.blocks(first)))
"""
    ran = driver.run(BEGIN + code, lazy=2, **uploads)
    assert ran.told == [[True, 64]]


def test_long_arrays_are_uploaded_in_pieces(driver, uploads):
    code = "from pool import gpu_checks, stub_memory\ngpu_checks.uploads_of_many_pieces(stub_memory.StubMemory())"
    driver.run(code, lazy=3, **uploads)


def test_steps_upload_beside_a_swap_without_copies(driver, gpu_kernels):  # noqa: ARG001 - which may skip
    """Copies on the caller's stream would wait for those of the swap, which one engine does, too."""
    code = """
ready()
cache.append([other], [1])
cache.swap_in(out)
for _ in range(3):
    cache.append([one])
driver.stub_finish()
tell(cache.cache_seqlens.array[cache.row(one)].tolist())
"""
    ran = driver.run(BEGIN + code, lazy=1)
    assert ran.told == [[9]]
    own = [call for call in ran.of("cuMemcpyAsync") if call["stream"] == STREAM]
    assert len(own) == 1, "the block that was shared, within the cache"
    launches = ran.launches()
    assert all(call["kernel"].startswith(UPLOAD) and call["stream"] == STREAM for call in launches)
    # lengths and slots; with the row that came back, and with a new page: 7 to 9 tokens, in pages of 4
    assert [decoded(call)["num_pieces"] for call in launches[-3:]] == [3, 2, 3]


def test_a_step_costs_a_copy_of_lengths_and_slots_and_one_for_each_new_page(driver):
    code = """
ready()
import sys
for count in (1, 1, 1, 1):
    cache.append([one], [count])
    with open(__import__("os").environ["STUB_LOG"], "a") as log:
        log.write('{"call": "step", "result": 0}\\n')
"""
    ran = driver.run(BEGIN + code, pageable=1)
    steps = "\n".join(call["call"] for call in ran.calls).split("step")[-4:]
    assert [step.count("cuMemcpyAsync") for step in [*steps[:-1]]] == [2, 3, 2]  # 8, 9, 10 tokens, in pages of 4


def test_what_was_made_is_destroyed(driver):
    ran = driver.run(f"{BEGIN}\nready(); del cache")
    assert len(ran.of("cuEventCreate")) == len(ran.of("cuEventDestroy_v2")) > 0
    assert len(ran.of("cuStreamCreate")) == len(ran.of("cuStreamDestroy_v2")) == 1
    assert ran.names()[-1] == "cuCtxPopCurrent_v2"


@pytest.mark.parametrize("host_pool", [True, False], ids=["swaps", "uploads"])
@pytest.mark.parametrize("lazy", [0, 1, 2, 3], ids=["at once", "swaps late", "work late", "all late"])
def test_what_copies_use_lives_until_they_are_done(driver, lazy, host_pool, uploads):
    """A cache that is collected takes its tensors along, whose memory may be another's from then on."""
    code = f"""
import gc, weakref
pages = DeviceArray(numpy.ones((8, 4, 1, 8), "float32"))
host = numpy.zeros((8, 4 * 8 * 4), "uint8")
more = {{"host_pool": host}} if {host_pool} else {{}}
cache = flashmla.PagedKVCache([pages], max_seqs=4, max_seq_len=16, **more)
one, other = cache.allocate()[0], cache.allocate()[0]
cache.append([one, other], [6, 6])
if {host_pool}:
    cache.swap_out(other)
lengths, seen = cache.cache_seqlens.array, []
def look():
    seen.append([lengths.tolist()[:2], int(host.any(axis=1).sum())])
weakref.finalize(pages, look)
weakref.finalize(cache._memory.staging, look)
del pages, cache
gc.collect()
tell(seen)
"""
    ran = driver.run(BEGIN + code, lazy=lazy, **uploads)
    assert ran.told == [[[[[6, 6], 2 * host_pool]] * 2]]


def test_a_cache_is_collected_while_another_thread_captures(driver):
    ran = driver.run(f"{BEGIN}\nready(); import os; os.environ['STUB_CAPTURING'] = '1'; del cache", lazy=3)
    assert {call["result"] for call in ran.calls} <= {0}
    assert len(ran.of("cuStreamSynchronize")) == 1
    assert len(ran.of("cuThreadExchangeStreamCaptureMode")) == 2


def test_without_a_host_pool_there_is_no_stream(driver):
    ran = driver.run(f"{BEGIN}\nmake(host_pool=None)")
    assert not ran.of("cuStreamCreate")
