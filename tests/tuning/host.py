"""For code that runs with the stub driver and tuning files."""

from __future__ import annotations

from flashmla import _tuning
from flashmla.errors import FlashMLAError
from stub_driver.host import tell
from tuning.entries import dense, sparse

__all__ = ["dense", "forget", "load", "save", "sparse", "tuning"]

tuning = _tuning


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
