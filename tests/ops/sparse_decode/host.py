"""For code that runs with the stub driver, as stub_driver/host.py. What each does says attention_host.py."""

import attention_host
from buffers import Layout, Pages
from ops.sparse_decode.case import Cache, SparseCase, SparseLayouts
from ops.sparse_decode.shape_only import decode_call, plan_call
from shape_only import CUDA

__all__ = [
    "Cache",
    "Layout",
    "Pages",
    "SparseCase",
    "SparseLayouts",
    "plan_sparse",
    "prepare_plan_sparse",
    "prepare_sparse",
    "run_plan_sparse",
    "run_sparse",
    "sparse_decode",
]


run_sparse, run_plan_sparse = attention_host.run_prepared, attention_host.run_prepared_plan


def plan_sparse(case: SparseCase, device: int = 0, **fields):
    return attention_host.run_plan_call(plan_call(case, (CUDA, device), **fields))


def sparse_decode(case: SparseCase, device: int = 0, **fields) -> None:
    attention_host.run_call(decode_call(case, (CUDA, device), **fields))


def prepare_sparse(case: SparseCase, **fields):
    return attention_host.prepare(decode_call(case, **fields))


def prepare_plan_sparse(case: SparseCase, **fields):
    return attention_host.prepare(plan_call(case, **fields))
