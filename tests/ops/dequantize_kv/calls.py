"""Calls of dequantize_kv: those of gather_kv without requests."""

from __future__ import annotations

import c_abi
import flashmla
from ops.gather_kv.calls import Pages, ReadCase


def check(case: ReadCase, backend) -> None:
    """Reads the first slots, or all where out is made, and compares every row with the oracle's."""
    pages = Pages(case, backend)
    slots = case.num_blocks * case.page_size
    given = case.given or case.route == "c"
    out = pages.output(max(1, slots - 3)) if given else None
    if case.route == "c":
        assert pages.c_call("dequantize_kv", out).run() == 0, c_abi.last_error()
    else:
        options = {"out": out.tensor} if given else {"out_dtype": case.dtype if case.format else None}
        made = pages.adapter.call(
            flashmla.dequantize_kv,
            pages.inputs["kv_cache"].tensor,
            kv_format=case.kv_format,
            descale_k=pages.inputs["descale_k"].tensor if case.descale is not None else None,
            num_threads=case.num_threads,
            **options,
        )
        assert not given or made is out.tensor
    found = out.values() if given else pages.adapter.to_numpy(made)
    assert found.shape == (max(1, slots - 3) if given else slots, case.columns)
    pages.check_rows(found, 0, [pages.token(*divmod(slot, case.page_size)) for slot in range(len(found))])
    if given:
        out.check_only_elements_written("out")
    pages.check_inputs_unchanged()
