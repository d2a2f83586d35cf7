"""Which shapes are tuned: given in words, from a profile, or the default set."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashmla._formats import kv_format_number
from flashmla._library import lib
from flashmla._tuning import Entry
from flashmla.errors import invalid

PAGE_SIZE = 64
DENSE, SPARSE = "dense_decode", "sparse_decode"
# The cases of benchmarks/goals.py, tuned.py and sparse_decode.py.
DEFAULT = (
    *("128,1,128,4096", "128,2,128,4096", "128,1,128,8192", "64,1,128,16384", "128,1,64,4096", "128,1,32,4096"),
    *("128,1,16,4096", "64,2,16,4096", "1,1,128,8192", "1,1,128,65536", "1,1,16,131072", "16,1,128,4096"),
    *("32,1,128,4096", "4,1,128,32768", "1,1,128,2048", "2,1,128,2048", "4,1,128,2048", "256,1,16,1024"),
    *(f"{case},32768,topk=2048" for case in ("128,1,128", "128,1,64", "128,1,16", "64,1,64", "8,1,64", "1,1,16")),
    *(
        f"{case},32768,topk=2048,format=v32"
        for case in ("128,1,128", "128,1,64", "128,2,128", "64,1,64", "2,1,128", "2,1,64", "128,1,16")
    ),
    *(f"{case},32768,topk=512,extra=128,format=model1" for case in ("128,1,128", "128,1,64", "16,1,64", "2,1,64")),
    "64,1,128,32768,topk=1024,extra=128,format=model1",
)
_WORDS = {
    "format": "kv_format",
    "dtype": "dtype",
    "d_qk": "d_qk",
    "h_kv": "h_kv",
    "page": "page_size",
    "window": "window",
    "capacity": "capacity",
    "topk": "topk",
    "extra": "extra_topk",
    "varlen": "varlen",
}
_TEXTS = {"format", "dtype"}
_OF_DENSE, _OF_SPARSE = {"capacity", "page", "window"}, {"extra"}  # that mean nothing to the other operation
USAGE = "batch,s_q,h_q,tokens and then NAME=VALUE of " + ", ".join(_WORDS)
_ANY_COLUMNS = 576  # d_qk of formats whose rows may be of any length


@dataclass(frozen=True)
class Shape:
    """The key of an entry, with one batch and one capacity."""

    operation: str
    dtype: str
    kv_format: str
    d_qk: int
    h_q: int
    h_kv: int
    s_q: int
    varlen: int
    page_size: int
    window: int
    extra_topk: int
    batch: int
    capacity: int

    def entry(self, **choice: Any) -> Entry:
        """The entry with that choice."""
        facts = asdict(self)
        batch, capacity = facts.pop("batch"), facts.pop("capacity")
        ranges = {"batch_from": batch, "batch_to": batch, "capacity_from": capacity, "capacity_to": capacity}
        return facts | ranges | {"kv_format": kv_format_number(self.kv_format)} | choice

    @property
    def words(self) -> str:
        """For people."""
        found = f"{self.operation} b {self.batch}, s_q {self.s_q}, h {self.h_q}/{self.h_kv}, d_qk {self.d_qk}"
        rows = "topk" if self.operation == SPARSE else "room"
        extras = [
            f"{rows} {self.capacity}",
            f"extra {self.extra_topk}" if self.extra_topk else "",
            f"page {self.page_size}" if self.page_size not in {0, PAGE_SIZE} else "",
            f"window {self.window}" if self.window else "",
            "varlen" if self.varlen else "",
            self.kv_format,
            self.dtype if self.dtype != "bfloat16" else "",
        ]
        return ", ".join([found, *filter(None, extras)])


@dataclass(frozen=True)
class Case:
    """A shape, and how many tokens the requests have that are measured."""

    shape: Shape
    tokens: int


def parsed(text: str) -> Case:
    """A case in words: `128,1,128,4096` or `128,1,128,32768,topk=2048,format=v32`."""
    given = text.split(",")
    numbers, words = given[:4], dict(word.partition("=")[::2] for word in given[4:])
    try:
        batch, s_q, h_q, tokens = (int(number) for number in numbers)
        named: dict[str, Any] = {_WORDS[w]: v if w in _TEXTS else int(v) for w, v in words.items()}
    except (KeyError, ValueError):
        raise invalid("FLASHMLA_ERROR_VALUE", f"case is {text!r}; it must be {USAGE}") from None
    if min(batch, s_q, h_q, tokens, *(v for v in named.values() if isinstance(v, int))) < 1:
        raise invalid("FLASHMLA_ERROR_VALUE", f"case is {text!r}; its numbers must be > 0")
    sparse = "topk" in named
    for word in sorted((_OF_DENSE if sparse else _OF_SPARSE) & words.keys()):
        raise invalid("FLASHMLA_ERROR_VALUE", f"case is {text!r}; {word} goes {'without' if sparse else 'with'} topk")
    kv_format = str(named.get("kv_format", "bf16"))
    columns = lib.flashmla_kv_columns(kv_format_number(kv_format, "format")) or _ANY_COLUMNS
    if sparse:
        named |= {"capacity": named.pop("topk"), "page_size": 0}
    else:
        page_size = named.setdefault("page_size", PAGE_SIZE)
        named["capacity"] = -(-max(tokens, named.get("capacity", 0)) // page_size) * page_size
    facts: dict[str, Any] = {
        "operation": SPARSE if sparse else DENSE, "dtype": "bfloat16", "kv_format": kv_format, "d_qk": columns,
        "h_q": h_q, "h_kv": 1, "s_q": s_q, "varlen": 0, "window": 0, "extra_topk": 0, "batch": batch,
    }  # fmt: skip
    return Case(Shape(**facts | named), tokens)


def of_profile(path: str | Path) -> list[Case]:
    """The decode calls on GPUs of a profile that was saved as JSON, those first that took the most time."""
    try:
        groups = json.loads(Path(path).read_text())["groups"]
        tuned = [group for group in groups if _can_be_tuned(group)]
        return [case for group in tuned for case in _of_group(group)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        words = f"profile {str(path)!r} cannot be read, {error}: Profile.save(...) with a name in .json writes one"
        raise invalid("FLASHMLA_ERROR_VALUE", words) from None


def _can_be_tuned(group: dict[str, Any]) -> bool:
    return group["operation"] in {DENSE, SPARSE} and group["device_id"] >= 0 and not group["calls_batch_invariant"]


def _of_group(group: dict[str, Any]) -> Iterable[Case]:
    shared = ("operation", "dtype", "kv_format", "d_qk", "h_q", "h_kv", "s_q", "window", "extra_topk", "batch")
    facts = {name: group[name] for name in shared}
    sparse = group["operation"] == SPARSE
    for table in group["tables"]:
        shape = Shape(
            **facts,
            varlen=int(group["total_q"] > 0),
            page_size=0 if sparse else group["page_size"],
            capacity=table["capacity"],
        )
        if shape.capacity > 0:
            yield Case(shape, max(int(table["tokens"]), 1))


def by_shape(cases: Iterable[Case]) -> dict[Shape, list[int]]:
    """The tokens that are measured of each shape, those with the same cache together, the largest first."""

    def order(case: Case) -> tuple[Any, ...]:
        shape = case.shape
        return shape.operation, shape.kv_format, shape.dtype, shape.page_size, -shape.batch * case.tokens

    found: dict[Shape, list[int]] = {}
    for case in sorted(cases, key=order):
        tokens = found.setdefault(case.shape, [])
        if case.tokens not in tokens:
            tokens.append(case.tokens)
    return found
