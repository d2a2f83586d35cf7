"""For code that runs with the stub driver, as stub_driver/host.py. What each does says attention_host.py."""

import attention_host
from buffers import Layout
from ops.dense_decode.case import Case, Layouts, Shard
from ops.dense_decode.shape_only import STEP, decode_call, plan_call
from shape_only import CUDA, moved

__all__ = [
    "CUDA",
    "STEP",
    "Case",
    "Layout",
    "Layouts",
    "Shard",
    "decode",
    "moved",
    "plan",
    "prepare_decode",
    "prepare_plan",
    "run_decode",
    "run_plan",
]


run_decode, run_plan = attention_host.run_prepared, attention_host.run_prepared_plan


def plan(case: Case = STEP, device: int = 0, **fields):
    return attention_host.run_plan_call(plan_call(case, (CUDA, device), **fields))


def decode(case: Case = STEP, device: int = 0, plan=None, **fields) -> None:
    attention_host.run_call(decode_call(case, (CUDA, device), plan, **fields))


def prepare_decode(case: Case = STEP, device: int = 0, plan=None, **fields):
    return attention_host.prepare(decode_call(case, (CUDA, device), plan, **fields))


def prepare_plan(case: Case = STEP, device: int = 0, **fields):
    return attention_host.prepare(plan_call(case, (CUDA, device), **fields))
