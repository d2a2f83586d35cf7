"""For code that runs with the stub driver and tuning files."""

from __future__ import annotations

from flashmla import _tuning
from flashmla.errors import FlashMLAError
from stub_driver.host import tell

__all__ = ["dense", "forget", "load", "save", "sparse", "tuning"]

tuning = _tuning


def dense(case, **choice) -> dict:
    """The entry for a case of dense_decode."""
    capacity = case.max_blocks * case.page_size
    facts = {
        "operation": "dense_decode", "dtype": case.dtype, "kv_format": 0, "d_qk": case.d_qk, "h_q": case.h_q,
        "h_kv": case.h_kv, "s_q": case.s_q, "page_size": case.page_size, "batch_from": case.batch,
        "batch_to": case.batch, "capacity_from": capacity, "capacity_to": capacity,
    }  # fmt: skip
    return facts | choice


def sparse(case, **choice) -> dict:
    """The entry for a case of sparse_decode."""
    topk = case.main.topk
    facts = {
        "operation": "sparse_decode", "dtype": "bfloat16", "kv_format": 0, "d_qk": case.d_qk, "h_q": case.h_q,
        "h_kv": 1, "s_q": case.s_q, "batch_from": case.batch, "batch_to": case.batch, "capacity_from": topk,
        "capacity_to": topk,
    }  # fmt: skip
    return facts | choice


def save(path: str, *entries: dict, device: int = 0) -> None:
    tuning.save(path, device, entries)


def load(path: str | None) -> None:
    """Tells the sentence of a failure, or an empty one."""
    try:
        tuning.load_tuning(path)
    except FlashMLAError as error:
        tell(error.status_name, str(error))
    else:
        tell("", "")


def forget() -> None:
    tuning.load_tuning(None)
