"""Calls of this library to time, also of several builds of it or of a forced kernel, side by side in one process."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from builds import environment
from problem import DEVICE, Problem

import flashmla

Calls = list[Callable[[], object]]


class Ours:
    """dense_decode of one problem, a call a block table, into buffers made beforehand."""

    def __init__(
        self,
        p: Problem,
        package: ModuleType = flashmla,
        *,
        q: torch.Tensor | None = None,
        compute: str = "default",
        own_plan: bool = False,
        batch_invariant: bool = False,
    ) -> None:
        """q: another form of the problem's. own_plan: every call makes its schedule; otherwise a plan is made here, as
        the layers of a step share it.
        """
        q = p.q if q is None else q
        inputs = (q, p.kv_cache, p.tables[0], p.cache_seqlens)
        option = {"kv_format": p.kv_format, "batch_invariant": batch_invariant}
        plan = None if own_plan else package.plan_decode(*inputs, causal=p.causal, **option)
        size = package.dense_decode_workspace_size(*inputs, causal=p.causal, plan=plan, **option)
        workspace = torch.empty(size, dtype=torch.uint8, device=DEVICE)
        self.out = torch.full((p.b, p.s_q, p.h_q, p.d_v), torch.nan, dtype=p.dtype, device=DEVICE)
        self.lse = torch.empty(p.b, p.h_q, p.s_q, device=DEVICE)
        self.results = self.out, self.lse

        def call(table: torch.Tensor) -> Callable[[], object]:
            return lambda: package.dense_decode(
                q, p.kv_cache, table, p.cache_seqlens, softmax_scale=p.scale, causal=p.causal, plan=plan,
                out=self.out, lse=self.lse, workspace=workspace, compute=compute, **option,
            )  # fmt: skip

        self.calls: Calls = [call(table) for table in p.tables]


def forced(p: Problem, kernel: str) -> Calls | None:
    """Ours with the kernel of that name, None where it does not fit. The variable matters while a call is captured, not
    in replays.
    """

    def under(call: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            with environment("FLASHMLA_FORCE_KERNEL", kernel):
                return call()

        return run

    try:
        with environment("FLASHMLA_FORCE_KERNEL", kernel):
            calls = Ours(p).calls
            calls[0]()
    except flashmla.UnsupportedError:
        return None
    return [under(call) for call in calls]
