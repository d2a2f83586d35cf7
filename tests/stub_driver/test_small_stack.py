"""Calls for a GPU work on a thread with a small stack, the first ones too, which open the driver and load kernels."""

from __future__ import annotations

import subprocess

import pytest

import build

STACK = 32 << 10  # bytes, as of tests/c/stack.h
SHIM = f"""
#include <pthread.h>
#include <stdint.h>
static _Alignas(64) unsigned char stack[{STACK}];
typedef intptr_t function(intptr_t, intptr_t, intptr_t);
static void *run(void *given) {{
  intptr_t *call = given;
  call[0] = ((function *)call[0])(call[1], call[2], call[3]);
  return 0;
}}
intptr_t on_small_stack(intptr_t called, intptr_t a, intptr_t b, intptr_t c) {{
  intptr_t call[] = {{called, a, b, c}};
  pthread_attr_t attributes;
  pthread_t thread;
  if (pthread_attr_init(&attributes) || pthread_attr_setstack(&attributes, stack, sizeof stack) ||
      pthread_create(&thread, &attributes, run, call) || pthread_join(thread, 0))
    return -1;
  return call[0];
}}
"""
# Stands for the library: its functions run on threads of their own.
ON_SMALL_STACK = """
import ctypes
shim = ctypes.CDLL({shim!r})
shim.on_small_stack.argtypes = [ctypes.c_ssize_t] * 4
shim.on_small_stack.restype = ctypes.c_ssize_t

class Library:
    def __getattr__(self, name):
        if name == "flashmla_last_error":
            return lib.flashmla_last_error
        called = int(ffi.cast("intptr_t", ffi.addressof(lib, name)))
        def call(*arguments):
            given = [int(ffi.cast("intptr_t", argument)) for argument in arguments]
            return shim.on_small_stack(called, *given, *[0] * (3 - len(given)))
        return call

c_abi.lib = Library()
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    made = tmp_path_factory.mktemp("stack") / "on_small_stack.so"
    command = [build.compiler(), "-shared", "-fPIC", "-x", "c", "-", "-o", made, "-lpthread"]
    subprocess.run(command, input=SHIM, text=True, check=True)
    return ON_SMALL_STACK.format(shim=str(made))


@pytest.mark.parametrize(
    ("code", "kernels"),
    [
        ("decode()", 3),
        ("made = plan(); decode(plan=made)", 3),
        ("made = prepare_decode(); run_decode(made); made = prepare_plan(); run_plan(made)", 4),
        ("merge(); run_merge(prepare_merge(MergeCase()))", 2),
    ],
)
def test_calls_need_little_stack(cuda_12_4, shim, code, kernels):
    ran = cuda_12_4.run(f"{shim}{code}")
    assert {line[0] for line in ran.told} == {0}
    assert len(ran.launches()) == kernels


def test_refusals_need_little_stack(cuda_12_4, shim):
    ran = cuda_12_4.run(f"{shim}decode(device=7); decode(STEP.but(page_size=65)); merge(device=9)")
    assert all(100 <= line[0] < 300 for line in ran.told)
    ran = cuda_12_4.run(f"{shim}decode(); merge()", version=11080, devices=0)
    assert all(line[0] >= 100 for line in ran.told)
