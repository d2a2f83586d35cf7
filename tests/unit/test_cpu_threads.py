"""The CPU backend's threads: how many, that results do not depend on it, forked children, several callers at once."""

import json
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

import flashmla
import small
from at_once import at_once


def long_inputs(h_q=32):
    """Enough work for several threads and for requests that are cut into parts."""
    draw = np.random.default_rng(3)
    q = draw.standard_normal((3, 2, h_q, 576)).astype(np.float32)
    kv_cache = draw.standard_normal((48, 64, 1, 576)).astype(np.float32)
    block_table = draw.permutation(48).astype(np.int32).reshape(3, 16)
    return q, kv_cache, block_table, np.array([1024, 0, 333], np.int32)


def bits(result):
    return [np.asarray(array).tobytes() for array in result]


@pytest.mark.parametrize("num_splits", [None, 0, 1, 5])
def test_results_do_not_depend_on_the_number_of_threads(num_splits):
    arrays = long_inputs()
    plan = None if num_splits is None else flashmla.plan_decode(*arrays, causal=True, num_splits=num_splits)
    one, *others = (
        bits(flashmla.dense_decode(*arrays, causal=True, plan=plan, num_threads=n)) for n in (1, 2, 3, 8, 100)
    )
    assert all(other == one for other in others)


def test_variable_queries_do_not_depend_on_the_number_of_threads():
    q, *cache = long_inputs()
    options = {"causal": True, "cu_seqlens_q": np.array([0, 1, 1, 6], np.int32), "max_seqlen_q": 5}
    packed = q.reshape(6, 32, 576)
    one, *others = (bits(flashmla.dense_decode(packed, *cache, **options, num_threads=n)) for n in (1, 2, 3, 8))
    assert all(other == one for other in others)


COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
int started, allowed = 1 << 30;
int pthread_create(pthread_t *id, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
  int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
  if (started >= allowed) return EAGAIN;
  started++;
  return real(id, attributes, run, argument);
}
"""

# Prints, for each (FLASHMLA_NUM_THREADS, num_threads, CPUs of the mask, threads the system grants), how many were
# started and whether the result is that of one thread. Each in a forked child, which has no workers yet.
SCENARIOS = """
import ctypes, json, os, sys
import flashmla
from test_cpu_threads import bits, long_inputs
shim = ctypes.CDLL(sys.argv[1])
started, allowed = (ctypes.c_int.in_dll(shim, name) for name in ("started", "allowed"))
arrays = long_inputs()
one = bits(flashmla.dense_decode(*arrays, num_threads=1))
everything = os.sched_getaffinity(0)
for variable, argument, cpus, granted in json.loads(sys.argv[2]):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0) == (child, 0)
        continue
    os.environ.pop("FLASHMLA_NUM_THREADS", None)
    if variable is not None:
        os.environ["FLASHMLA_NUM_THREADS"] = variable
    flashmla.read_environment()
    os.sched_setaffinity(0, sorted(everything)[:cpus])
    started.value, allowed.value = 0, granted
    same = bits(flashmla.dense_decode(*arrays, num_threads=argument)) == one
    print(json.dumps([started.value, same]), flush=True)
    os._exit(0)
"""


def run_scenarios(folder, scenarios):
    """(threads started beside the caller's, result unchanged) of each scenario, in a process that counts them."""
    shim = folder / "counter.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", shim, "-ldl"], input=COUNTER, text=True, check=True)
    preload = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(shim)]))
    environment = os.environ | {"LD_PRELOAD": preload, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", SCENARIOS, shim, json.dumps(scenarios)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [tuple(json.loads(line)) for line in run.stdout.splitlines()]


def test_count_is_the_argument_else_the_variable_else_the_affinity_mask(tmp_path):
    cpus, any_number = len(os.sched_getaffinity(0)), 1 << 30
    mask = min(cpus, 8) - 1  # 8: parts that the work has
    expected = {
        ("3", 0, cpus, any_number): 2,
        ("3", 2, cpus, any_number): 1,
        ("1", 0, cpus, any_number): 0,
        ("1", 4, cpus, any_number): 3,
        (None, 1, cpus, any_number): 0,
        (None, 0, 1, any_number): 0,
        (None, 0, cpus, any_number): mask,
        ("many", 0, cpus, any_number): mask,
        ("0", 0, cpus, any_number): mask,
        ("-4", 0, cpus, any_number): mask,
        ("99999999999", 0, cpus, any_number): mask,
        (None, 5, cpus, 2): 2,  # the system grants two: those do the work
        (None, 5, cpus, 0): 0,
    }
    results = run_scenarios(tmp_path, list(expected))
    assert dict(zip(expected, results, strict=True)) == {key: (count, True) for key, count in expected.items()}


def child(arrays, expected, connection):
    for _ in range(3):
        connection.send(bits(flashmla.dense_decode(*arrays, num_threads=4)) == expected)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_children_work():
    """While the parent has workers, which its children have not."""
    arrays = long_inputs()
    for _ in range(3):
        expected = bits(flashmla.dense_decode(*arrays, num_threads=4))
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=child, args=(arrays, expected, sender))
        process.start()
        for _ in range(3):
            assert receiver.poll(30)
            assert receiver.recv()
        process.join(30)
        assert process.exitcode == 0


UNLOADED = """
import time
import flashmla
from flashmla import _library
from test_cpu_threads import long_inputs
flashmla.dense_decode(*long_inputs(), num_threads=4)
_library.ffi.dlclose(_library.lib)
time.sleep(1.5)  # idle workers wake up and end
"""


def test_closed_library_stays_for_its_workers():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", UNLOADED], env=environment, check=False, timeout=60).returncode == 0


def test_several_callers_at_once():
    arrays = long_inputs()
    expected = bits(flashmla.dense_decode(*arrays, num_threads=1))

    def call(_):
        return all(bits(flashmla.dense_decode(*arrays, num_threads=3)) == expected for _ in range(5))

    assert at_once(call, range(4)) == [True] * 4


def test_small_calls_are_right_with_many_threads():
    arrays = small.inputs(lengths=(0, 1, 65), s_q=1, h_q=1)
    small.check(*flashmla.dense_decode(*arrays, num_threads=1000), arrays)
