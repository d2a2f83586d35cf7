"""Calls of sparse_decode and plan_sparse_decode on tensors that exist by their shapes only."""

from __future__ import annotations

import c_abi
import shape_only
from ops.sparse_decode.calls import OF_PLANS, fields, plan_fields
from ops.sparse_decode.case import Cache, SparseCase
from shape_only import CUDA

NAMES = ("q", "q_rope", "kv_cache", "indices", "topk_length", "attn_sink", "cu_seqlens_q", "out", "lse")
EXTRA_NAMES = ("extra_kv_cache", "extra_indices", "extra_topk_length")
ADDRESSES = shape_only.addresses(*NAMES, *EXTRA_NAMES) | shape_only.SCRATCH
# Several units a query token, two blocks of heads, fewer tiles than processors.
STEP = SparseCase(main=Cache(num_blocks=100, topk=2048), batch=4, s_q=2, h_q=128, given=("lse",))


def strides(case: SparseCase, name: str) -> tuple[int, ...]:
    """In elements, by the case's layout."""
    return case.layout_of(name).strides(case.shapes()[name], case.granule_of(name))


def tensor(case: SparseCase, name: str, device: tuple[int, int]) -> c_abi.CTensor:
    code = c_abi.DTYPE_CODES[case.dtype_of(name)]
    return c_abi.CTensor(ADDRESSES[name], device, code, list(case.shapes()[name]), list(strides(case, name)))


def plan_call(case: SparseCase, device: tuple[int, int] = (CUDA, 0), **more) -> c_abi.CCall:
    """plan_sparse_decode of the case, but for its buffer. `more`: fields."""
    tensors = {name: tensor(case, name, device) for name in case.inputs if name in OF_PLANS}
    return c_abi.CCall("plan_sparse_decode", tensors, plan_fields(case) | more)


def decode_call(case: SparseCase, device: tuple[int, int] = (CUDA, 0), plan=None, **more) -> c_abi.CCall:
    """sparse_decode of the case, but for its workspace; lse is given if the case gives it. `more`: fields."""
    names = (*case.inputs, "out", *(["lse"] if "lse" in case.given else []))
    tensors = {name: tensor(case, name, device) for name in names}
    given = {} if plan is None else {"plan": plan}
    return c_abi.CCall("sparse_decode", tensors, fields(case) | given | more)
