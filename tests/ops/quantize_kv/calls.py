"""Calls of quantize_kv: those of append_kv without slots."""

from __future__ import annotations

import numpy as np

import c_abi
import flashmla
from ops.append_kv.calls import Tokens, WriteCase


def check(case: WriteCase, backend) -> None:
    """Quantises, and compares every byte of the pages with the oracle's."""
    tokens = Tokens(case, backend)
    if case.route == "c":
        assert tokens.c_call("quantize_kv", "out").run() == 0, c_abi.last_error()
    else:
        returned = tokens.adapter.call(
            flashmla.quantize_kv,
            tokens.inputs["latent"].tensor,
            tokens.inputs["rope"].tensor if case.split else None,
            kv_format=case.kv_format,
            unrounded_scales=case.unrounded,
            descale_k=tokens.inputs["descale_k"].tensor if case.descale is not None else None,
            num_threads=case.num_threads,
            out=tokens.cache.tensor,
        )
        assert returned is tokens.cache.tensor
    tokens.check_written(np.arange(case.num_tokens))
