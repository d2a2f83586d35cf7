"""The tensors of a decode step, which `plan_decode` and `dense_decode` share, as fields of their params structs."""

from __future__ import annotations

from typing import Any

from flashmla._call import Call, Params
from flashmla._cdef import ffi
from flashmla._scalars import INT32, flag, integer

_CAUSAL: int = ffi.integer_const("FLASHMLA_CAUSAL")
_BATCH_INVARIANT: int = ffi.integer_const("FLASHMLA_BATCH_INVARIANT")


class Step(Call):
    """A call with the fields that both params structs share. `tensors`: q, kv_cache, block_table, cache_seqlens."""

    __slots__ = ()

    def __init__(
        self,
        kind: Params,
        tensors: tuple[Any, Any, Any, Any],
        cu_seqlens_q: Any,
        max_seqlen_q: int,
        stream: Any,
        *,
        causal: bool,
        batch_invariant: bool,
    ) -> None:
        q, kv_cache, block_table, cache_seqlens = tensors
        super().__init__(kind, q, "q", stream)
        params = self.params
        params.q = self.model
        params.kv_cache = self.read(kv_cache, "kv_cache")
        params.block_table = self.read(block_table, "block_table")
        params.cache_seqlens = self.read(cache_seqlens, "cache_seqlens")
        if cu_seqlens_q is not None:
            params.cu_seqlens_q = self.read(cu_seqlens_q, "cu_seqlens_q")
        params.max_seqlen_q = integer(max_seqlen_q, "max_seqlen_q", INT32)
        params.flags = (_CAUSAL if flag(causal, "causal") else 0) | (
            _BATCH_INVARIANT if flag(batch_invariant, "batch_invariant") else 0
        )
