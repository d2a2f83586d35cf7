"""The calls whose host time host.py measures: a tiny problem in every framework, the C functions, other libraries."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

B, S_Q, D_QK, PAGE = 1, 1, 576, 64
HEADS = {"cpu": 1, "cuda": 16}
# On a GPU one page, so that nothing is split and the decode itself is one launch; on the CPU no token, so that what is
# left is the call.
TOKENS = {"cpu": 0, "cuda": PAGE}
Call = Callable[[], object]


def arrays(device: str) -> list[np.ndarray]:
    """q, kv_cache, block_table, cache_seqlens of the tiny problem."""
    q = np.zeros((B, S_Q, HEADS[device], D_QK), np.float16)
    kv_cache = np.zeros((B, PAGE, 1, D_QK), np.float16)
    return [q, kv_cache, np.arange(B, dtype=np.int32)[:, None].copy(), np.full(B, TOKENS[device], np.int32)]


def converter(framework: str, device: str) -> Callable[[np.ndarray], Any]:
    """NumPy arrays to those of a framework on the device."""
    if framework == "torch":
        import torch

        torch.set_num_threads(1)
        return lambda array: torch.from_numpy(array.copy()).to(device)
    if framework == "cupy":
        import cupy

        return cupy.asarray
    if framework == "jax":
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        import jax

        place = jax.devices("cpu" if device == "cpu" else "gpu")[0]
        return lambda array: jax.device_put(array, place)
    return np.copy


def calls_of(framework: str, device: str, package: ModuleType) -> dict[str, Call]:
    """The calls to time, by figure."""
    convert = converter(framework, device)
    inputs = [convert(array) for array in arrays(device)]
    threads = {} if device == "cuda" else {"num_threads": 1}
    plan = package.plan_decode(*inputs)
    size = package.dense_decode_workspace_size(*inputs, plan=plan)
    if device == "cuda" and size:
        raise SystemExit("the problem is split: its launches are not those that FIGURES says")
    decode, make_plan, merge = package.dense_decode, package.plan_decode, package.merge_states
    found: dict[str, Call] = {
        "made": lambda: decode(*inputs, plan=plan, **threads),
        "alone": lambda: decode(*inputs, **threads),
        "plan": lambda: make_plan(*inputs),
    }
    if framework == "jax":
        return found  # its arrays cannot be given, nor written again
    out, lse = decode(*inputs, plan=plan, **threads)
    workspace = convert(np.zeros(max(size, 16), np.uint8))
    buffer = convert(np.zeros(package.plan_decode_size(*inputs), np.uint8))
    given = {"plan": plan, "out": out, "lse": lse, "workspace": workspace, **threads}
    merged = {"out": convert(np.zeros(out.shape, np.float16)), "lse": convert(np.zeros(lse.shape, np.float32))}
    found |= {
        "given": lambda: decode(*inputs, **given),
        "plan given": lambda: make_plan(*inputs, buffer=buffer),
        "merge": lambda: merge([out, out], [lse, lse], **merged, **threads),
    }
    if hasattr(package, "prepare"):
        prepared = package.prepare(decode, *inputs, **given)
        q, other = convert(arrays(device)[0]), convert(np.zeros(out.shape, np.float16))
        found |= {
            "prepared": prepared,
            "prepared q out": lambda: prepared(q=q, out=other),
            "prepared plan": package.prepare(make_plan, *inputs),
        }
    return found


def entries(framework: str, device: str, package: ModuleType) -> dict[str, Call]:
    """The C functions through cffi, and a C function that does nothing."""
    library, pointer = package._library, package._tensor.pointer  # noqa: SLF001 - beneath what is public
    lib, ffi = library.lib, library.ffi
    convert = converter(framework, device)
    inputs = [convert(array) for array in arrays(device)]
    plan = package.plan_decode(*inputs)
    out, lse = package.dense_decode(*inputs, plan=plan)
    params = ffi.new("flashmla_dense_decode_params *")
    params.struct_size = ffi.sizeof("flashmla_dense_decode_params")
    params.flags = ffi.integer_const("FLASHMLA_DEFAULT_SCALE")
    params.num_threads = 1
    params.plan = plan.c
    size = max(16, package.dense_decode_workspace_size(*inputs, plan=plan))
    workspace = convert(np.zeros(size, np.uint8))
    names = ("q", "kv_cache", "block_table", "cache_seqlens", "out", "lse", "workspace")
    capsules = [tensor.__dlpack__() for tensor in (*inputs, out, lse, workspace)]
    tensors = [pointer(capsule, name) for capsule, name in zip(capsules, names, strict=True)]
    for name, tensor in zip(names[:-1], tensors[:-1], strict=True):
        setattr(params, name, tensor)
    params.workspace, params.workspace_size = tensors[-1].data, size
    keep = (inputs, plan, out, lse, workspace, capsules)
    decode, nothing = lib.flashmla_dense_decode, lib.flashmla_abi_version
    found: dict[str, Call] = {"nothing": nothing, "entry": lambda _keep=keep: decode(params)}
    if library.function("flashmla_dense_decode_prepare") is not None:
        made = ffi.new("flashmla_prepared **")
        if lib.flashmla_dense_decode_prepare(params, made):
            raise SystemExit(ffi.string(lib.flashmla_last_error()).decode())
        handle, run = made[0], lib.flashmla_dense_decode_run
        found["prepared entry"] = lambda: run(handle, params)
    return found


def peers() -> dict[str, Call]:
    """Other libraries' calls of the same problem, with metadata made beforehand."""
    import peer_libraries
    from problem import Pool, Problem

    problem = Problem([TOKENS["cuda"]] * B, S_Q, HEADS["cuda"], Pool(17_000), least_tables=1)
    found = {}
    for name, make in peer_libraries.ALL.items():
        calls = make(problem)
        if calls:
            calls[0]()
            found[name] = calls[0]
    return found
